//! Two ends and the bytes between them, cut anyhow; and peers that break the rules.

use super::*;

/// xorshift64*: enough for cutting.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit
    }
}

/// Two ends and what is under way between them.
struct Pair {
    ends: [Mux; 2],
    wires: [Vec<u8>; 2],
}

impl Pair {
    fn new() -> Self {
        Self {
            ends: [Mux::new(Side::Dialling), Mux::new(Side::Accepting)],
            wires: Default::default(),
        }
    }

    fn open(&mut self) -> u32 {
        self.ends[0].open().unwrap()
    }

    /// Carries everything, until nobody has more to say.
    fn settle(&mut self) {
        let mut random = Random(1);
        while self.ends.iter().any(Mux::has_news) || self.wires.iter().any(|wire| !wire.is_empty())
        {
            self.step(&mut random);
        }
    }

    /// One end sends some, or takes some.
    fn step(&mut self, random: &mut Random) {
        let at = random.below(2) as usize;
        if random.below(2) == 0 {
            let (most, wire) = (random.below(40_000) as usize, &mut self.wires[at]);
            // A socket buffer is not endless.
            if wire.len() < 100_000 {
                self.ends[at].transmit(wire, wire.len() + most);
            }
        } else {
            let wire = &mut self.wires[1 - at];
            let count = wire.len().min(1 + random.below(50_000) as usize);
            let bytes: Vec<u8> = wire.drain(..count).collect();
            self.ends[at].receive(&bytes).unwrap();
        }
    }
}

fn read_all(mux: &mut Mux, id: u32) -> (Vec<u8>, Read) {
    let mut bytes = Vec::new();
    loop {
        match mux.read(id, usize::MAX, &mut bytes) {
            Read::Some(_) => {}
            end => return (bytes, end),
        }
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    (0..len).map(|_| random.below(256) as u8).collect()
}

/// Several streams at once, more than any window, both directions, cut anyhow; and slow readers.
#[test]
fn what_is_written_arrives_whole_and_in_order_on_every_stream() {
    for seed in 1..6 {
        let mut pair = Pair::new();
        let mut random = Random(seed);
        pair.ends.iter_mut().for_each(|end| end.widen(1024 * 1024));
        let ids: Vec<u32> = (0..5).map(|_| pair.open()).collect();
        let sent: Vec<[Vec<u8>; 2]> = ids
            .iter()
            .map(|&id| {
                [0, 1]
                    .map(|end| noise(random.below(2_000_000) as usize, seed + u64::from(id) + end))
            })
            .collect();
        let mut written = vec![[0; 2]; ids.len()];
        let mut got = vec![[const { Vec::new() }; 2]; ids.len()];
        let mut ended = vec![[false; 2]; ids.len()];
        while ended.iter().flatten().any(|ended| !ended) {
            pair.step(&mut random);
            let (at, end) = (random.below(5) as usize, random.below(2) as usize);
            let id = ids[at];
            if end == 1 && pair.ends[1].opened < id {
                continue;
            }
            let rest = &sent[at][end][written[at][end]..];
            match pair.ends[end].write(id, &rest[..rest.len().min(random.below(300_000) as usize)])
            {
                Written::Some(count) => written[at][end] += count,
                Written::Full | Written::Stopped => {}
            }
            if written[at][end] == sent[at][end].len() {
                pair.ends[end].finish(id);
            }
            let most = random.below(200_000) as usize;
            ended[at][end] |= pair.ends[end].read(id, most, &mut got[at][end]) == Read::End;
        }
        for (at, sent) in sent.iter().enumerate() {
            assert!(got[at][0] == sent[1] && got[at][1] == sent[0], "stream {at}, seed {seed}");
        }
        for &id in &ids {
            for end in &mut pair.ends {
                end.drop_reader(id);
                end.drop_writer(id);
            }
        }
        pair.settle();
        for end in &pair.ends {
            assert!(end.streams.is_empty() && end.unread == 0, "{end:?}");
        }
    }
}

/// Each end has more to say than the other one may hold, and reads nothing before it has said it.
#[test]
fn two_full_ends_do_not_wait_for_each_other() {
    let mut pair = Pair::new();
    let id = pair.open();
    pair.settle();
    let bytes = noise(SEND_BUFFER, 3);
    for end in &mut pair.ends {
        assert_eq!(end.write(id, &bytes), Written::Some(SEND_BUFFER));
        assert_eq!(end.write(id, &bytes), Written::Full);
        end.finish(id);
    }
    pair.settle();
    for end in &mut pair.ends {
        assert_eq!(end.delivery(id), Delivery::Left);
        let (got, how) = read_all(end, id);
        assert!(got == bytes && how == Read::End);
    }
}

#[test]
fn a_reader_that_stops_is_heard_and_its_answer_still_arrives() {
    let mut pair = Pair::new();
    let id = pair.open();
    assert_eq!(pair.ends[0].write(id, b"a request"), Written::Some(9));
    pair.settle();
    assert_eq!(pair.ends[1].accept(), Some(id));
    pair.ends[1].write(id, b"no");
    pair.ends[1].finish(id);
    pair.ends[1].stop(id);
    pair.settle();
    assert_eq!(pair.ends[0].write(id, b"more"), Written::Stopped);
    assert_eq!(pair.ends[0].delivery(id), Delivery::Stopped);
    assert_eq!(read_all(&mut pair.ends[0], id), (b"no".to_vec(), Read::End));
    assert_eq!(pair.ends[1].delivery(id), Delivery::Left);
    // What was given up is no end.
    let other = pair.open();
    pair.ends[0].write(other, b"half");
    pair.ends[0].reset(other);
    pair.settle();
    assert_eq!(pair.ends[1].accept(), Some(other));
    assert_eq!(read_all(&mut pair.ends[1], other), (Vec::new(), Read::Abandoned));
}

#[test]
fn streams_are_few_at_once_and_as_many_as_it_takes() {
    let mut pair = Pair::new();
    for _ in 0..STREAMS {
        pair.open();
    }
    assert_eq!(pair.ends[0].open(), None);
    assert_eq!(pair.ends[1].open(), None, "only who dialled opens streams");
    for round in 1..1000 {
        pair.settle();
        assert_eq!(pair.ends[1].accept(), Some(round));
        for end in &mut pair.ends {
            end.drop_reader(round);
            end.drop_writer(round);
        }
        pair.settle();
        assert_eq!(pair.ends[0].open(), Some(round + STREAMS));
        assert_eq!(pair.ends[0].open(), None);
    }
    assert_eq!(pair.ends[1].streams.len(), STREAMS as usize - 1);
}

#[test]
fn a_wider_window_is_used_and_a_narrow_one_holds() {
    let mut pair = Pair::new();
    let id = pair.open();
    let mut written = 0;
    let mut fill = |pair: &mut Pair| {
        for _ in 0..100 {
            if let Written::Some(count) = pair.ends[0].write(id, &vec![7; 100_000]) {
                written += count;
            }
            pair.settle();
        }
        written
    };
    assert_eq!(fill(&mut pair), FIRST_WINDOW as usize + SEND_BUFFER);
    assert_eq!(pair.ends[1].unread, FIRST_WINDOW);
    pair.ends[1].widen(1024 * 1024);
    assert_eq!(fill(&mut pair), 1024 * 1024 + SEND_BUFFER);
    assert_eq!(pair.ends[1].unread, 1024 * 1024);
}

#[test]
fn pings_are_answered_and_a_close_is_the_last_word() {
    let mut pair = Pair::new();
    let id = pair.open();
    // However often it is asked, one answer waits.
    for number in 0..100 {
        pair.ends[0].ping(number);
        let mut bytes = Vec::new();
        pair.ends[0].transmit(&mut bytes, 1000);
        pair.ends[1].receive(&bytes).unwrap();
    }
    let mut bytes = Vec::new();
    pair.ends[1].transmit(&mut bytes, 1000);
    assert_eq!(bytes.len(), 9);
    pair.ends[0].receive(&bytes).unwrap();
    assert_eq!(pair.ends[0].answered(), Some(99));
    pair.ends[1].close(2);
    pair.ends[1].close(3);
    pair.ends[1].write(id, b"too late");
    pair.settle();
    assert_eq!(pair.ends[0].peer_closed(), Some(2));
    assert!(pair.ends[1].is_closed() && !pair.ends[1].has_news());
    assert_eq!(read_all(&mut pair.ends[0], id), (Vec::new(), Read::Waiting));
}

fn frames(all: &[(Kind, u32, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(kind, id, value) in all {
        frames::put(&mut bytes, kind, id, value);
        if kind == Kind::Data {
            bytes.resize(bytes.len() + value as usize, 1);
        }
    }
    bytes
}

#[test]
fn what_a_peer_must_not_send_is_refused() {
    use Kind::{Allow, Credit, Data, Finish, Open, Reset, Stop};
    let whole = |count: u32| (0..count).map(|_| (Data, 1, MAX_PIECE));
    let over_all: Vec<_> = [(Open, 1, 0)]
        .into_iter()
        .chain(whole(FIRST_WINDOW / MAX_PIECE))
        .chain([(Data, 1, 1)])
        .collect();
    let many: Vec<_> = (1..=STREAMS + 1).map(|id| (Open, id, 0)).collect();
    for (what, error) in [
        (over_all, MuxError::Credit),
        (vec![(Open, 1, 0), (Data, 1, MAX_PIECE + 1)], MuxError::Credit),
        (vec![(Credit, 0, u32::MAX)], MuxError::Credit),
        (many, MuxError::Streams),
        (vec![(Allow, 0, 1)], MuxError::Streams),
        (vec![(Open, 2, 0)], MuxError::Stream(2)),
        (vec![(Open, 1, 0), (Open, 1, 0)], MuxError::Stream(1)),
        (vec![(Data, 1, 1)], MuxError::Stream(1)),
        (vec![(Finish, 1, 0)], MuxError::Stream(1)),
        (vec![(Stop, 1, 0)], MuxError::Stream(1)),
        (vec![(Open, 1, 0), (Finish, 1, 0), (Data, 1, 1)], MuxError::Stream(1)),
        (vec![(Open, 1, 0), (Finish, 1, 0), (Reset, 1, 0)], MuxError::Stream(1)),
    ] {
        assert_eq!(Mux::new(Side::Accepting).receive(&frames(&what)), Err(error), "{what:?}");
    }
    assert_eq!(Mux::new(Side::Accepting).receive(&[10; 9]), Err(MuxError::Kind(10)));
    assert_eq!(
        Mux::new(Side::Dialling).receive(&frames(&[(Open, 1, 0)])),
        Err(MuxError::Stream(1)),
        "a node opens none"
    );
}

/// Frames drawn at random and bytes damaged: no panic, and never more held than was granted.
#[test]
fn any_bytes_are_refused_or_held_within_the_window() {
    for seed in 1..3000 {
        let mut random = Random(seed);
        let mut mux = Mux::new(if seed % 4 == 0 { Side::Dialling } else { Side::Accepting });
        for _ in 0..6 {
            mux.open();
        }
        let mut out = Vec::new();
        for _ in 0..60 {
            let kind = Kind::ALL[random.below(10) as usize];
            let kind = if kind == Kind::Close { Kind::Open } else { kind };
            let small = random.below(8) as u32;
            let id = if kind == Kind::Open { mux.opened + 1 } else { small };
            let limit = if random.below(4) == 0 { 1 << 32 } else { 70_000 };
            let value = random.below(limit) as u32;
            let mut bytes = Vec::new();
            frames::put(&mut bytes, kind, id, value);
            if kind == Kind::Data {
                bytes.resize(bytes.len() + value.min(MAX_PIECE) as usize, 9);
            }
            if random.below(200) == 0 {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            if mux.receive(&bytes).is_err() {
                break;
            }
            match random.below(8) {
                0 => mux.stop(small),
                1 => mux.drop_reader(small),
                2 => mux.drop_writer(small),
                3 => drop(mux.read(small, 5000, &mut Vec::new())),
                4 => drop(mux.write(small, &[1; 3000])),
                5 => mux.reset(small),
                _ => mux.transmit(&mut out, 20_000),
            }
            out.clear();
            let held: usize = mux.streams.values().map(|stream| stream.unread.len()).sum();
            assert!(held <= mux.unread as usize && mux.unread <= FIRST_WINDOW, "seed {seed}");
            assert!(mux.streams.len() <= STREAMS as usize, "seed {seed}");
            assert!(mux.granted + mux.unread <= FIRST_WINDOW, "seed {seed}");
        }
    }
}
