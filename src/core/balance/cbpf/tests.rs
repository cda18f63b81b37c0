//! An interpreter, what the kernel's checker wants, and properties.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::{prelude::*, test_runner::RngSeed};

use super::*;
use crate::balance::policy;

/// Runs a program as the kernel does: on the IP header, with this random number. `None`: it does something unknown.
fn run(program: &Program, header: &[u8], random: u32) -> Option<u32> {
    let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
    loop {
        let Instruction { code, jt, jf, k } = *program.0.get(at)?;
        at += 1;
        let from = k.wrapping_sub(NETWORK) as usize;
        match code {
            LOAD_WORD if k == RANDOM => a = random,
            LOAD_WORD => a = u32::from_be_bytes(header.get(from..from + 4)?.try_into().ok()?),
            LOAD_BYTE => a = u32::from(*header.get(from)?),
            MULTIPLY => a = a.wrapping_mul(k),
            SHIFT_RIGHT => a >>= k,
            MODULO => a = a.checked_rem(k)?,
            XOR_X => a ^= x,
            TO_X => x = a,
            JUMP => at += k as usize,
            JUMP_EQUAL => at += usize::from(if a == k { jt } else { jf }),
            JUMP_LEAST => at += usize::from(if a >= k { jt } else { jf }),
            RETURN => return Some(k),
            _ => return None,
        }
    }
}

/// `bpf_check_classic` of net/core/filter.c: known instructions, jumps forward and inside, a return at the end. And
/// no instruction that nobody reaches.
fn check(program: &Program) {
    let code = &program.0;
    assert!(!code.is_empty() && code.len() <= MOST);
    let mut reached = vec![false; code.len()];
    reached[0] = true;
    for (at, instruction) in code.iter().enumerate() {
        let next = at + 1;
        let targets = match instruction.code {
            JUMP => vec![next + instruction.k as usize],
            JUMP_EQUAL | JUMP_LEAST => vec![
                next + usize::from(instruction.jt),
                next + usize::from(instruction.jf),
            ],
            RETURN => vec![],
            SHIFT_RIGHT => {
                assert!(instruction.k < 32);
                vec![next]
            }
            MODULO => {
                assert!(instruction.k > 0);
                vec![next]
            }
            LOAD_WORD | LOAD_BYTE | MULTIPLY | XOR_X | TO_X => vec![next],
            other => panic!("unknown code {other:#x}"),
        };
        assert!(reached[at], "{at} is never reached\n{program}");
        for target in targets {
            assert!(target < code.len(), "{at} leaves the program\n{program}");
            reached[target] = true;
        }
    }
    assert_eq!(code[code.len() - 1].code, RETURN);
}

fn four(client: Ipv4Addr) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[0] = 0x45;
    header[12..16].copy_from_slice(&client.octets());
    header
}

fn six(client: Ipv6Addr) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[8..24].copy_from_slice(&client.octets());
    header
}

#[test]
fn a_program_by_weight_reads_well() {
    let program = Program::weighted(&[1, 0, 2, 1]).expect("short");
    insta::assert_snapshot!(program, @r"
   0  ld   random
   1  jge  0x40000000, 3, 2
   2  ret  0
   3  jge  0xc0000000, 5, 4
   4  ret  2
   5  ret  3
");
}

#[test]
fn a_program_by_address_reads_well() {
    let program = Program::by_source(&[2, 2, 0, 1]).expect("short");
    insta::assert_snapshot!(program, @r"
   0  ldb  [ip + 0]
   1  rsh  4
   2  jeq  6, 5, 3
   3  ld   [ip + 12]
   4  ja   18
   5  ld   [ip + 8]
   6  mul  0x9e3779b1
   7  tax
   8  ld   [ip + 12]
   9  xor  x
  10  mul  0x9e3779b1
  11  tax
  12  ld   [ip + 16]
  13  xor  x
  14  mul  0x9e3779b1
  15  tax
  16  ld   [ip + 20]
  17  xor  x
  18  tax
  19  rsh  16
  20  xor  x
  21  mul  0x85ebca6b
  22  tax
  23  rsh  13
  24  xor  x
  25  mul  0xc2b2ae35
  26  tax
  27  rsh  16
  28  xor  x
  29  mod  4
  30  jge  0x00000002, 32, 31
  31  ret  2
  32  jge  0x00000003, 34, 33
  33  ret  0
  34  ret  1
");
}

#[test]
fn borders_of_the_weights() {
    let program = Program::weighted(&[1, 0, 2, 1]).expect("short");
    check(&program);
    let seat = |random| run(&program, &[], random);
    let quarter = 1 << 30;
    assert_eq!(seat(0), Some(0));
    assert_eq!(seat(quarter - 1), Some(0));
    assert_eq!(seat(quarter), Some(2));
    assert_eq!(seat(3 * quarter - 1), Some(2));
    assert_eq!(seat(3 * quarter), Some(3));
    assert_eq!(seat(u32::MAX), Some(3));
}

#[test]
fn nothing_to_choose_from() {
    for program in [Program::weighted(&[]), Program::by_source(&[])] {
        let program = program.expect("short");
        check(&program);
        assert_eq!(run(&program, &[], 0), Some(NOBODY));
    }
    // Weights of nothing are all equal: a connection has to wait somewhere.
    let program = Program::weighted(&[0, 0]).expect("short");
    assert_eq!(run(&program, &[], 0), Some(0));
    assert_eq!(run(&program, &[], u32::MAX), Some(1));
}

#[test]
fn too_much_is_said() {
    let seats: Vec<u32> = (0..2030).collect();
    for program in [
        Program::weighted(&vec![3; 2030]),
        Program::by_source(&seats),
    ] {
        let program = program.expect("it fits");
        check(&program);
        assert!(program.0.iter().any(|i| i.code == JUMP && i.k > 255));
    }
    let error = Program::weighted(&vec![1; 2100]).expect_err("too long");
    assert!(error.0 > MOST, "{error}");
    let message = error.to_string();
    assert!(
        message.ends_with("are too many for the kernel, which takes 4096"),
        "{message}"
    );
    assert!(Program::by_source(&(0..2100).collect::<Vec<_>>()).is_err());
}

#[test]
fn neighbours_are_spread_over_the_seats() {
    let table = policy::buckets(&[true; 4], 256);
    let program = Program::by_source(&table).expect("short");
    check(&program);
    let v4 = |n: u32| four(Ipv4Addr::from(0x0a00_0000 + n));
    let v6 = |n: u32| six(Ipv6Addr::from((0x2001_0db8_u128 << 96) + u128::from(n)));
    let networks = |n: u32| {
        six(Ipv6Addr::from(
            (0x2001_0db8_u128 << 96) + (u128::from(n) << 64) + 1,
        ))
    };
    let clients: [&dyn Fn(u32) -> Vec<u8>; 3] = [&v4, &v6, &networks];
    for client in clients {
        let mut counts = [0_u32; 4];
        for n in 0..4096 {
            let seat = run(&program, &client(n), 0).expect("a seat");
            counts[seat as usize] += 1;
        }
        for seat in 0..4_u32 {
            let part = table.iter().filter(|s| **s == seat).count() as u32;
            let expected = 4096 * part / 256;
            assert!(counts[seat as usize].abs_diff(expected) < 160, "{counts:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(5),
        ..ProptestConfig::default()
    })]

    #[test]
    fn each_seat_gets_its_share(weights in prop::collection::vec(0..=u32::MAX, 1..300), random: u32) {
        let program = Program::weighted(&weights).expect("short");
        check(&program);
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let seat = run(&program, &[], random).expect("a seat") as usize;
        prop_assert!(weights[seat] > 0 || sum == 0);
        // The stretch of random numbers that it owns, by the program's own borders.
        let mut stretch = vec![0_u64; weights.len()];
        let mut borders: Vec<u64> = program.0.iter().filter(|i| i.code == JUMP_LEAST).map(|i| i.k.into()).collect();
        borders.extend([0, 1 << 32]);
        borders.sort_unstable();
        for pair in borders.windows(2).filter(|pair| pair[0] < pair[1]) {
            let seat = run(&program, &[], u32::try_from(pair[0]).expect("32 bits")).expect("a seat");
            stretch[seat as usize] += pair[1] - pair[0];
        }
        prop_assert_eq!(stretch.iter().sum::<u64>(), 1 << 32);
        for (weight, stretch) in weights.iter().zip(&stretch) {
            if sum > 0 {
                let exact = u128::from(*weight) << 32;
                let off = (u128::from(*stretch) * u128::from(sum)).abs_diff(exact);
                prop_assert!(off <= u128::from(sum), "{} of {}", stretch, exact / u128::from(sum));
            }
        }
    }

    #[test]
    fn every_client_lands_on_an_eligible_seat(
        eligible in prop::collection::vec(any::<bool>(), 1..130),
        count in 1..1024_usize,
        client: u128,
    ) {
        let table = policy::buckets(&eligible, count);
        let program = Program::by_source(&table).expect("short");
        check(&program);
        let any = eligible.contains(&true);
        let clients = [
            six(Ipv6Addr::from(client)),
            four(Ipv4Addr::from_bits(client as u32)),
        ];
        for header in clients {
            let seat = run(&program, &header, 0).expect("a seat") as usize;
            prop_assert!(seat < eligible.len() && (eligible[seat] || !any));
            prop_assert_eq!(run(&program, &header, 9), Some(seat as u32));
        }
    }

    #[test]
    fn each_bucket_has_its_leaf(table in prop::collection::vec(0..5_u32, 1..700)) {
        let program = Program::by_source(&table).expect("short");
        check(&program);
        // The tree alone, behind the modulo: each bucket leads to its seat.
        let modulo = program.0.iter().position(|i| i.code == MODULO).expect("a modulo");
        for (bucket, seat) in table.iter().enumerate() {
            let mut code = vec![simple(LOAD_WORD, RANDOM)];
            code.extend(&program.0[modulo..]);
            prop_assert_eq!(run(&Program(code), &[], bucket as u32), Some(*seat));
        }
    }
}
