//! Classic BPF programs that choose the socket of a `SO_REUSEPORT` group: by weight, or by the client's address.
//!
//! The kernel runs one for each new connection and takes the result as the index of the socket
//! (`SO_ATTACH_REUSEPORT_CBPF` of socket(7)); an index that the group does not have leaves the choice to its own hash.

use std::fmt;

/// Most instructions of a program: `BPF_MAXINSNS`.
pub const MOST: usize = 4096;

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
const MULTIPLY: u16 = 0x24; // BPF_ALU | BPF_MUL | BPF_K
const SHIFT_RIGHT: u16 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const MODULO: u16 = 0x94; // BPF_ALU | BPF_MOD | BPF_K
const XOR_X: u16 = 0xac; // BPF_ALU | BPF_XOR | BPF_X
const TO_X: u16 = 0x07; // BPF_MISC | BPF_TAX
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// `SKF_AD_OFF + SKF_AD_RANDOM`: where a load gives a random number.
const RANDOM: u32 = (-0x1000_i32 + 56).cast_unsigned();
/// `SKF_NET_OFF`: where the IP header begins.
const NETWORK: u32 = (-0x10_0000_i32).cast_unsigned();
/// A result that no group has: the kernel chooses.
const NOBODY: u32 = u32::MAX;

/// One instruction: `struct sock_filter` of linux/filter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// The constant.
    pub k: u32,
}

/// A program, ready to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(pub Vec<Instruction>);

/// A program would have more than [`MOST`] instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} instructions are too many for the kernel, which takes {MOST}")]
pub struct TooLong(pub usize);

impl Program {
    /// Chooses at random, each seat as often as its weight says. A seat of weight 0 gets nothing, unless all have 0:
    /// then all are equal. Without seats, the kernel chooses.
    ///
    /// # Errors
    /// There are too many seats; about 2000 fit.
    pub fn weighted(weights: &[u32]) -> Result<Self, TooLong> {
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let weight = |w: u32| if sum == 0 { 1 } else { u64::from(w) };
        let whole = if sum == 0 { weights.len() as u64 } else { sum };
        let mut leaves = vec![];
        let mut before = 0;
        for (seat, w) in weights.iter().enumerate() {
            // The random number is 32 bits wide: each seat owns a stretch of them.
            let from = u32::try_from((u128::from(before) << 32) / u128::from(whole)).unwrap_or(0);
            if weight(*w) > 0 {
                leaves.push((from, seat as u32));
            }
            before += weight(*w);
        }
        let mut code = vec![simple(LOAD_WORD, RANDOM)];
        tree(&leaves, &mut code);
        Self::checked(code)
    }

    /// Chooses by the client's address: `buckets` holds the seat of each bucket of addresses. Without buckets, the
    /// kernel chooses.
    ///
    /// Kernels before 6.7 have room for about 2500 instructions of their own kind by default
    /// (`net.core.optmem_max`): a thousand buckets are too many there, and attaching fails with `ENOMEM`.
    ///
    /// # Errors
    /// There are too many buckets; about 2000 fit.
    pub fn by_source(buckets: &[u32]) -> Result<Self, TooLong> {
        let mut leaves: Vec<(u32, u32)> = vec![];
        for (bucket, seat) in buckets.iter().enumerate() {
            if leaves.last().is_none_or(|(_, last)| last != seat) {
                leaves.push((bucket as u32, *seat));
            }
        }
        let mut code = vec![];
        if !buckets.is_empty() {
            address(&mut code);
            code.push(simple(MODULO, buckets.len() as u32));
        }
        tree(&leaves, &mut code);
        Self::checked(code)
    }

    fn checked(code: Vec<Instruction>) -> Result<Self, TooLong> {
        if code.len() > MOST {
            return Err(TooLong(code.len()));
        }
        Ok(Self(code))
    }
}

fn simple(code: u16, k: u32) -> Instruction {
    let (jt, jf) = (0, 0);
    Instruction { code, jt, jf, k }
}

/// Leaves the client's address in the accumulator, mixed so that each bit of it matters to each bit of the result.
fn address(code: &mut Vec<Instruction>) {
    let word = |at: u32| simple(LOAD_WORD, NETWORK.wrapping_add(at));
    code.extend([simple(LOAD_BYTE, NETWORK), simple(SHIFT_RIGHT, 4)]);
    // IPv6: four words at 8, each mixed into what the words before it gave.
    let mut six = vec![word(8)];
    for at in [12, 16, 20] {
        six.extend([simple(MULTIPLY, 0x9e37_79b1), simple(TO_X, 0)]);
        six.extend([word(at), simple(XOR_X, 0)]);
    }
    let four = [word(12), simple(JUMP, six.len() as u32)];
    code.push(Instruction {
        code: JUMP_EQUAL,
        jt: four.len() as u8,
        jf: 0,
        k: 6,
    });
    code.extend(four);
    code.extend(six);
    // The finaliser of MurmurHash3.
    for (shift, factor) in [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35), (16, 1)] {
        code.extend([simple(TO_X, 0), simple(SHIFT_RIGHT, shift)]);
        code.push(simple(XOR_X, 0));
        if factor != 1 {
            code.push(simple(MULTIPLY, factor));
        }
    }
}

/// A balanced tree of comparisons: the result is the seat of the last leaf that begins at or below the accumulator.
fn tree(leaves: &[(u32, u32)], code: &mut Vec<Instruction>) {
    match leaves {
        [] => code.push(simple(RETURN, NOBODY)),
        [(_, seat)] => code.push(simple(RETURN, *seat)),
        _ => {
            let (left, right) = leaves.split_at(leaves.len() / 2);
            let at = code.len();
            let k = right[0].0;
            code.push(simple(JUMP_LEAST, k));
            let mut below = vec![];
            tree(left, &mut below);
            if let Ok(jt) = u8::try_from(below.len()) {
                code[at].jt = jt;
            } else {
                // A comparison skips 255 at most; a jump goes anywhere.
                code[at].jf = 1;
                code.push(simple(JUMP, below.len() as u32));
            }
            code.append(&mut below);
            tree(right, code);
        }
    }
}

impl fmt::Display for Program {
    /// The disassembly, a line an instruction; jumps name the line that they go to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Instruction { code, jt, jf, k }) in self.0.iter().enumerate() {
            let to = |skip: u32| at + 1 + skip as usize;
            write!(f, "{at:>4}  ")?;
            match *code {
                LOAD_WORD if *k == RANDOM => writeln!(f, "ld   random"),
                LOAD_WORD => writeln!(f, "ld   [ip + {}]", k.wrapping_sub(NETWORK)),
                LOAD_BYTE => writeln!(f, "ldb  [ip + {}]", k.wrapping_sub(NETWORK)),
                MULTIPLY => writeln!(f, "mul  {k:#010x}"),
                SHIFT_RIGHT => writeln!(f, "rsh  {k}"),
                MODULO => writeln!(f, "mod  {k}"),
                XOR_X => writeln!(f, "xor  x"),
                TO_X => writeln!(f, "tax"),
                JUMP => writeln!(f, "ja   {}", to(*k)),
                JUMP_EQUAL => writeln!(f, "jeq  {k}, {}, {}", to((*jt).into()), to((*jf).into())),
                JUMP_LEAST => writeln!(
                    f,
                    "jge  {k:#010x}, {}, {}",
                    to((*jt).into()),
                    to((*jf).into())
                ),
                RETURN if *k == NOBODY => writeln!(f, "ret  nobody"),
                RETURN => writeln!(f, "ret  {k}"),
                other => writeln!(f, "{other:#06x} {jt} {jf} {k:#x}"),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
