//! setsockopt(2) and bpf(2).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use rcluster_core::balance::{
    cbpf::{Instruction, Program},
    ebpf,
};

fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the kernel reads `length` bytes of `value`, which lives for the call; what it points to is the caller's care.
    #[expect(unsafe_code)]
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct sock_fprog` of linux/filter.h.
#[repr(C)]
struct Filter {
    length: u16,
    code: *const Instruction,
}

/// Lets a classic program choose among the sockets of this one's group, instead of the one before.
///
/// # Errors
/// The errno of `setsockopt(2)`: `EINVAL` for a program that the kernel does not take or a socket without a group,
/// `ENOMEM` for one larger than `net.core.optmem_max`, `EPERM` in a sandbox.
pub fn attach_classic(socket: &OwnedFd, program: &Program) -> io::Result<()> {
    let filter = Filter {
        length: u16::try_from(program.0.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        code: program.0.as_ptr(),
    };
    // `Instruction` has the layout of `struct sock_filter`, and `program` outlives the call.
    set_option(socket, libc::SO_ATTACH_REUSEPORT_CBPF, &filter)
}

/// Leaves the choice to the kernel's own hash again.
///
/// # Errors
/// The errno of `setsockopt(2)`: `ENOENT` if there is no program.
pub fn detach(socket: &OwnedFd) -> io::Result<()> {
    set_option(socket, libc::SO_DETACH_REUSEPORT_BPF, &0_i32)
}

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const PROGRAM_LOAD: libc::c_long = 5;

const MAP_ARRAY: u32 = 2; // BPF_MAP_TYPE_ARRAY
const MAP_SOCKETS: u32 = 20; // BPF_MAP_TYPE_REUSEPORT_SOCKARRAY
const PROGRAM_REUSEPORT: u32 = 21; // BPF_PROG_TYPE_SK_REUSEPORT

/// Begins of `union bpf_attr` of linux/bpf.h; the kernel takes what is missing for zero.
#[repr(C)]
#[derive(Default)]
struct CreateMap {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct LoadProgram {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a `repr(C)` struct without padding. The pointers in it are
    // addresses of values that the callers keep alive, as large as the command wants them.
    #[expect(unsafe_code)]
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Takes over what bpf(2) has opened; the kernel sets close-on-exec by itself.
fn opened(number: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(number).map_err(io::Error::other)?;
    // SAFETY: bpf(2) has just opened it for us, and nobody else knows its number.
    #[expect(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn create_map(kind: u32, value_size: usize, entries: u32) -> io::Result<OwnedFd> {
    let attributes = CreateMap {
        kind,
        key_size: 4,
        value_size: value_size as u32,
        entries,
        flags: 0,
    };
    bpf(MAP_CREATE, &attributes).and_then(opened)
}

fn element(map: &OwnedFd, key: &u32, value: u64) -> Element {
    Element {
        map: map.as_raw_fd().cast_unsigned(),
        key: std::ptr::from_ref(key) as u64,
        value,
        ..Element::default()
    }
}

/// `value` must have the size of the map's values.
fn update(map: &OwnedFd, key: u32, value: &[u8]) -> io::Result<()> {
    bpf(MAP_UPDATE, &element(map, &key, value.as_ptr() as u64)).map(|_| ())
}

const COUNTER: u32 = 0;
const IN_FORCE: u32 = 1;

/// A program in the kernel that takes seats from an order, and the maps that it reads. It serves one group: a socket can be
/// in one such program only.
///
/// It stays in the kernel while it is attached, also when this is dropped.
#[derive(Debug)]
pub struct Kernel {
    control: OwnedFd,
    schedule: OwnedFd,
    sockets: OwnedFd,
    program: OwnedFd,
}

impl Kernel {
    /// Loads a program for so many seats, with an empty order: the kernel's hash chooses until there is one.
    ///
    /// # Errors
    /// The errno of `bpf(2)`: `EPERM` without `CAP_BPF` or in a sandbox, `EINVAL` before Linux 5.12.
    pub fn load(seats: u32) -> io::Result<Self> {
        let control = create_map(MAP_ARRAY, 8, 2)?;
        let schedule = create_map(MAP_ARRAY, ebpf::HALF, 2)?;
        let sockets = create_map(MAP_SOCKETS, 4, seats)?;
        let code = ebpf::steer(
            control.as_raw_fd(),
            schedule.as_raw_fd(),
            sockets.as_raw_fd(),
        );
        let attributes = LoadProgram {
            kind: PROGRAM_REUSEPORT,
            count: code.len() as u32,
            code: code.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            ..LoadProgram::default()
        };
        let program = bpf(PROGRAM_LOAD, &attributes).and_then(opened)?;
        Ok(Self {
            control,
            schedule,
            sockets,
            program,
        })
    }

    /// Its descriptors, for another program in this process: to be given to [`Kernel::resume`] in the same order.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 4] {
        [&self.control, &self.schedule, &self.sockets, &self.program].map(AsFd::as_fd)
    }

    /// What the program before this one loaded. The order in force and the sockets are as they were.
    ///
    /// # Errors
    /// The errno of `bpf(2)`, if these are not the descriptors of a `Kernel`.
    pub fn resume(descriptors: [OwnedFd; 4]) -> io::Result<Self> {
        let [control, schedule, sockets, program] = descriptors;
        let kernel = Self {
            control,
            schedule,
            sockets,
            program,
        };
        kernel.in_force()?;
        Ok(kernel)
    }

    /// Lets it choose among the sockets of this one's group, instead of the program before.
    ///
    /// # Errors
    /// The errno of `setsockopt(2)`.
    pub fn attach(&self, socket: &OwnedFd) -> io::Result<()> {
        set_option(
            socket,
            libc::SO_ATTACH_REUSEPORT_EBPF,
            &self.program.as_raw_fd(),
        )
    }

    /// Puts a socket of the group, which listens, on a seat. To be done again after it was shut down and listens again.
    ///
    /// # Errors
    /// The errno of `bpf(2)`: `E2BIG` for a seat that the program was not loaded for, `EINVAL` for a socket that does not
    /// listen, `EBUSY` for one that has a seat already, here or in another program.
    pub fn put(&self, seat: u32, socket: &OwnedFd) -> io::Result<()> {
        update(&self.sockets, seat, &socket.as_raw_fd().to_ne_bytes())
    }

    /// Takes seats in this order from now on, and from its beginning again after its end. An empty one leaves the
    /// choice to the kernel's hash.
    ///
    /// # Errors
    /// `EINVAL` for more than [`ebpf::MOST`] seats; the errno of `bpf(2)`.
    pub fn set_schedule(&self, order: &[u32]) -> io::Result<()> {
        if order.len() > ebpf::MOST {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let half = 1 - (self.in_force()? & 1);
        let mut value = Vec::with_capacity(ebpf::HALF);
        value.extend((order.len() as u32).to_ne_bytes());
        value.extend(order.iter().flat_map(|seat| seat.to_ne_bytes()));
        value.resize(ebpf::HALF, 0);
        update(&self.schedule, half as u32, &value)?;
        update(&self.control, IN_FORCE, &half.to_ne_bytes())
    }

    /// Connections that it was asked about.
    ///
    /// # Errors
    /// The errno of `bpf(2)`.
    pub fn asked(&self) -> io::Result<u64> {
        self.read(COUNTER)
    }

    fn in_force(&self) -> io::Result<u64> {
        self.read(IN_FORCE)
    }

    fn read(&self, key: u32) -> io::Result<u64> {
        let mut value = 0_u64;
        let address = std::ptr::from_mut(&mut value) as u64;
        bpf(MAP_LOOKUP, &element(&self.control, &key, address))?;
        // The kernel wrote behind the compiler's back.
        Ok(std::hint::black_box(value))
    }
}
