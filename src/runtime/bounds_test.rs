//! Whatever workers say, in whatever order: the master's memory stays under a bound.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Write as _,
    os::unix::net::UnixStream as Blocking,
    time::Duration,
};

use proptest::prelude::*;
use tokio::{net::UnixStream, sync::mpsc, time::timeout};

use super::{
    counting::held_and_peak,
    effects::World,
    link::{FromLink, Link},
    listeners::Listeners,
    rights::Rights,
};
use crate::{cli::Cli, config::Config};
use rcluster_core::supervisor::{Action, Event, Exit, Pid, StopSignal, Supervisor, Time, WorkerId};

/// The bound for this master: two workers and a spare, and their replacements. See `ipc/bounds.rs`.
const BOUND: isize = 16 * 1024 * 1024;

/// Something that a worker says, `times` over.
#[derive(Clone, Debug)]
struct Speech {
    /// Which of the workers that live now.
    worker: usize,
    what: What,
    /// Length of its longest part.
    length: usize,
    times: usize,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Query,
    Address,
    Path,
    Data,
    Listening,
    Close,
    Leaving,
    Seq,
    Hello,
    Beat,
    Error,
    Handled,
    Fault,
    Drain,
    Handle,
    App,
    Deep,
    Unknown,
    Malformed,
    Unfinished,
}

impl Speech {
    /// The line of the n-th time.
    fn line(&self, n: usize) -> Vec<u8> {
        let filler = "x".repeat(self.length);
        let list = |item: &str| [item].repeat(self.length / 2).join(",");
        let cluster = |rest: String| format!(r#"{{"cmd":"NODE_CLUSTER",{rest}}}"#);
        let shim = |rest: String| format!(r#"{{"cmd":"NODE_RCLUSTER",{rest}}}"#);
        let query = |seq: &str, address: &str, data: &str| {
            cluster(format!(
                r#""act":"queryServer","seq":{seq},"address":"{address}","port":0,"addressType":4,"index":{n},"data":{data}"#
            ))
        };
        let most = u64::MAX;
        let text = match self.what {
            What::Query => query("1", "127.0.0.1", "null"),
            What::Address => query("1", &format!("{n}{filler}"), "null"),
            What::Path => cluster(format!(
                r#""act":"queryServer","seq":1,"address":"/nowhere/{n}/{filler}","port":-1,"addressType":-1"#
            )),
            What::Data => query("1", "127.0.0.1", &format!("[{}]", list("[]"))),
            What::Seq => query(&format!("[{}]", list("1")), "127.0.0.1", "null"),
            What::Listening => cluster(format!(
                r#""act":"listening","address":"{n}{filler}","port":1,"addressType":4"#
            )),
            What::Close => cluster(format!(r#""act":"close","key":"{n}{filler}""#)),
            What::Leaving => cluster(format!(
                r#""act":"exitedAfterDisconnect","seq":[{}]"#,
                list("[]")
            )),
            What::Hello => shim(format!(r#""act":"hello","node":"{filler}","queues":true"#)),
            What::Beat => shim(format!(
                r#""act":"beat","requests":{most},"connections":{most},"durations":[{}],"classes":[{}]"#,
                list("9"),
                list("9")
            )),
            What::Error | What::Handled => shim(format!(
                r#""act":"error","name":"{filler}","message":"{n}{filler}","stack":"{filler}","handled":{}"#,
                matches!(self.what, What::Handled)
            )),
            What::Fault => shim(format!(
                r#""act":"fault","message":"{n}{filler}","more":[{}]"#,
                list("[]")
            )),
            What::Drain => shim(format!(r#""act":"drained","cut":{most}"#)),
            What::Handle => format!(
                r#"{{"cmd":"NODE_HANDLE","type":"net.Native","msg":[{}]}}"#,
                list("[]")
            ),
            What::App => format!(r#"{{"text":"{filler}","cmd":"\"NODE_"}}"#),
            What::Deep => "[".repeat(self.length) + &"]".repeat(self.length),
            What::Unknown => cluster(format!(r#""act":"{n}{filler}","x":[{}]"#, list("{}"))),
            What::Malformed => format!("{{{filler}"),
            What::Unfinished => return filler.into_bytes(),
        };
        (text + "\n").into_bytes()
    }
}

fn speech() -> impl Strategy<Value = Speech> {
    let what = prop::sample::select(vec![
        What::Query,
        What::Address,
        What::Path,
        What::Data,
        What::Seq,
        What::Listening,
        What::Close,
        What::Leaving,
        What::Hello,
        What::Beat,
        What::Error,
        What::Handled,
        What::Fault,
        What::Drain,
        What::Handle,
        What::App,
        What::Deep,
        What::Unknown,
        What::Malformed,
        What::Unfinished,
    ]);
    // What is long comes rarely often: the bytes of a case are bounded, too.
    let size = prop_oneof![
        (0..100usize, 1..2000usize),
        (900..5000usize, 1..400usize),
        (30_000..70_000usize, 1..40usize),
        (300_000..1_100_000usize, 1..4usize),
    ];
    (0..3usize, what, size).prop_map(|(worker, what, (length, times))| Speech {
        worker,
        what,
        length,
        times,
    })
}

/// A master whose workers are ends of sockets, and never processes.
struct Scene {
    world: World,
    supervisor: Supervisor,
    inbox: mpsc::Receiver<(WorkerId, FromLink)>,
    workers: BTreeMap<WorkerId, Blocking>,
    now: u64,
    over: bool,
}

impl Scene {
    fn new() -> Self {
        use clap::Parser as _;
        let words = ["rcluster", "-w", "2", "--spares", "1", "/app.js"];
        let cli = Cli::parse_from(words);
        let config = Config::new(&cli.run, "/tmp".as_ref()).unwrap();
        let listeners = Listeners::new(Rights::new(false, "/tmp".as_ref(), None), 511);
        let (inbox_in, inbox) = mpsc::channel(256);
        let policy = config.policy.clone();
        let mut scene = Self {
            world: World::new(config, BTreeMap::new(), listeners, None, None, inbox_in),
            supervisor: Supervisor::new(policy, 1),
            inbox,
            workers: BTreeMap::new(),
            now: 0,
            over: false,
        };
        scene.dispatch(Event::Tick);
        scene
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all but three orders are the world's"
    )]
    fn dispatch(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.now += 10;
            if let Event::Exited { id, .. } = &event {
                let slot = self.supervisor.worker(*id).map(|worker| worker.slot);
                self.world.forget(*id, slot);
                self.workers.remove(id);
            }
            for action in self.supervisor.step(Time(self.now), event) {
                let exited = |id| {
                    let exit = Exit::Code(1);
                    Event::Exited { id, exit }
                };
                match action {
                    Action::Spawn { id, .. } => {
                        let (ours, theirs) = Blocking::pair().unwrap();
                        ours.set_nonblocking(true).unwrap();
                        theirs.set_nonblocking(true).unwrap();
                        let ours = UnixStream::from_std(ours).unwrap();
                        let link = Link::open(id, ours, self.world.inbox.clone());
                        self.world.links.insert(id, link);
                        self.workers.insert(id, theirs);
                        let pid = Pid(i32::MAX);
                        events.push_back(Event::Spawned { id, pid });
                    }
                    Action::Signal {
                        id,
                        signal: StopSignal::Kill,
                    } => events.push_back(exited(id)),
                    Action::Exit { .. } => self.over = true,
                    other => events.extend(self.world.execute(other, &self.supervisor)),
                }
            }
        }
    }

    /// Hears what the links have to tell, until nothing comes for a moment.
    async fn hear(&mut self) {
        let moment = Duration::from_millis(1);
        while let Ok(Some((id, what))) = timeout(moment, self.inbox.recv()).await {
            if let Some(event) = self.world.hear(id, what, &self.supervisor) {
                self.dispatch(event);
            }
        }
    }

    /// The worker says a line; gives up when nobody takes it any more.
    async fn say(&mut self, worker: usize, mut line: &[u8]) {
        let Some(id) = self.workers.keys().nth(worker).copied() else {
            return;
        };
        let mut tries = 0;
        while !line.is_empty() && tries < 3 {
            let Some(stream) = self.workers.get_mut(&id) else {
                return;
            };
            if let Ok(count @ 1..) = stream.write(line) {
                line = &line[count..];
                tries = 0;
            } else {
                self.hear().await;
                tries += 1;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]

    /// The thread has no other memory than what the master holds: a line is made, said and freed, and its length is taken off.
    #[test]
    fn no_sequence_of_messages_makes_the_master_grow_beyond_its_bound(
        speeches in prop::collection::vec(speech(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let peak = runtime.block_on(async {
            let mut scene = Scene::new();
            scene.hear().await;
            let (before, _) = held_and_peak();
            let mut most = 0;
            'all: for speech in &speeches {
                for n in 0..speech.times {
                    let line = speech.line(n);
                    // The making of the line does not count.
                    held_and_peak();
                    scene.say(speech.worker, &line).await;
                    let (_, peak) = held_and_peak();
                    most = most.max(peak - before - line.capacity().cast_signed());
                    if scene.over {
                        break 'all;
                    }
                }
                scene.hear().await;
                most = most.max(held_and_peak().1 - before);
            }
            most
        });
        prop_assert!(peak < BOUND, "{peak} bytes at most");
    }
}
