//! The eBPF program that takes seats from an order, one after the other: round robin in the kernel.
//!
//! Two array maps and a socket array belong to it. *Control* has two 8-byte values: the counter of connections, and which
//! half is in force (0 or 1). *Schedule* has two values, the halves: a 4-byte length and [`MOST`] 4-byte seats. A new
//! order is written into the half that is not in force and then switched in by one byte, so that no connection
//! meets half an order. *Sockets* is the `BPF_MAP_TYPE_REUSEPORT_SOCKARRAY`, by seat.
//!
//! Whatever fails leaves the choice to the kernel's own hash, as if there were no program. See
//! Documentation/bpf/standardization/instruction-set.rst of the kernel.

/// Seats in an order, at most.
pub const MOST: usize = 1024;
const LIMIT: i32 = MOST.cast_signed() as i32;
/// Bytes of one half of the schedule map.
pub const HALF: usize = 4 + 4 * MOST;

const CALL_LOOKUP: i32 = 1; // bpf_map_lookup_elem
const CALL_SELECT: i32 = 82; // bpf_sk_select_reuseport
const PASS: i32 = 1; // SK_PASS

/// One instruction, not yet in the kernel's form.
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    skip: i16,
    value: i32,
}

impl Instruction {
    /// `struct bpf_insn` of linux/bpf.h, in this machine's byte order.
    fn encoded(self) -> u64 {
        let registers = if cfg!(target_endian = "little") {
            self.from << 4 | self.to
        } else {
            self.to << 4 | self.from
        };
        let [s0, s1] = self.skip.to_ne_bytes();
        let [v0, v1, v2, v3] = self.value.to_ne_bytes();
        u64::from_ne_bytes([self.code, registers, s0, s1, v0, v1, v2, v3])
    }
}

fn op(code: u8, to: u8, from: u8, skip: i16, value: i32) -> Instruction {
    Instruction {
        code,
        to,
        from,
        skip,
        value,
    }
}

/// `to = from`
fn copy(to: u8, from: u8) -> Instruction {
    op(0xbf, to, from, 0, 0)
}

/// `to = value`
fn set(to: u8, value: i32) -> Instruction {
    op(0xb7, to, 0, 0, value)
}

/// The 4 bytes on the stack that keys are passed in.
const KEY: i16 = -4;

/// r0 = the value of the map `fd` for the key on the stack.
fn lookup(fd: i32) -> Vec<Instruction> {
    vec![
        op(0x18, 1, 1, 0, fd), // r1 = map (BPF_PSEUDO_MAP_FD), in two instructions
        op(0, 0, 0, 0, 0),
        copy(2, 10),
        op(0x07, 2, 0, 0, KEY.into()),
        op(0x85, 0, 0, 0, CALL_LOOKUP),
    ]
}

/// Marks a jump to the end, before the end is known.
const TO_END: i16 = i16::MAX;

/// The program, for the maps with these descriptors, as `BPF_PROG_LOAD` takes it.
pub fn steer(control_fd: i32, schedule_fd: i32, sockets_fd: i32) -> Vec<u64> {
    let mut code = vec![
        copy(6, 1),
        op(0x62, 10, 0, KEY, 0), // key = 0: the counter
    ];
    code.extend(lookup(control_fd));
    code.extend([
        op(0x15, 0, 0, TO_END, 0),
        set(7, 1),
        op(0xdb, 0, 7, 0, 0x01), // r7 = fetch_add(r0, r7)
        op(0x62, 10, 0, KEY, 1), // key = 1: the half
    ]);
    code.extend(lookup(control_fd));
    code.extend([
        op(0x15, 0, 0, TO_END, 0),
        op(0x71, 1, 0, HALF_BYTE, 0), // r1 = that byte
        op(0x57, 1, 0, 0, 1),
        op(0x63, 10, 1, KEY, 0),
    ]);
    code.extend(lookup(schedule_fd));
    code.extend([
        op(0x15, 0, 0, TO_END, 0),
        op(0x61, 1, 0, 0, 0), // r1 = length
        op(0x15, 1, 0, TO_END, 0),
        op(0x9f, 7, 1, 0, 0),          // r7 %= r1
        op(0x35, 7, 0, TO_END, LIMIT), // the verifier wants to see it
        op(0x67, 7, 0, 0, 2),
        op(0x0f, 0, 7, 0, 0),
        op(0x61, 1, 0, 4, 0), // r1 = seat
        op(0x63, 10, 1, KEY, 0),
        copy(1, 6),
        op(0x18, 2, 1, 0, sockets_fd),
        op(0, 0, 0, 0, 0),
        copy(3, 10),
        op(0x07, 3, 0, 0, KEY.into()),
        set(4, 0),
        op(0x85, 0, 0, 0, CALL_SELECT),
    ]);
    let end = code.len();
    code.extend([set(0, PASS), op(0x95, 0, 0, 0, 0)]);
    for (at, instruction) in code.iter_mut().enumerate() {
        if instruction.skip == TO_END {
            instruction.skip = i16::try_from(end - at - 1).unwrap_or(0);
        }
    }
    code.into_iter().map(Instruction::encoded).collect()
}

/// Where the lowest byte of the half's number is: user space writes it as an 8-byte number.
const HALF_BYTE: i16 = if cfg!(target_endian = "little") { 0 } else { 7 };
