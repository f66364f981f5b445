//! A rank over a device that computes behind the back of who submits: two steps at a time, answers in order, and an end
//! that nobody waits for in vain.

use std::sync::Mutex;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::spawn;
use std::time::Duration;

use collective::Solo;
use model::{Packer, Segment};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// What a step of the device ends with.
type End = Result<f32, &'static str>;

/// A rank whose device computes a step when it is told to.
struct Bench {
    seat: Arc<Seat>,
    jobs: Sender<Job>,
    done: Done,
    /// What is submitted: its number of tokens, and the way to end it.
    submitted: Receiver<(usize, Sender<End>)>,
    answers: Receiver<Result<f32, String>>,
    rank: JoinHandle<()>,
}

// === impl Bench ===

impl Bench {
    fn new() -> Self {
        let seat = Arc::new(Seat::new(0, 1));
        seat.take(Arc::new(Solo));
        let waiter = Waiter::start(&seat, &Arc::default()).unwrap();
        let (jobs, inbox) = channel();
        let (submits, submitted) = channel();
        let (answer, answers) = channel();
        let submit = move |batch: &PackedBatch, _: Checksum| {
            if batch.tokens.is_empty() {
                return Err(model::Error::Device("refused".to_owned()));
            }
            let (end, ended) = channel::<End>();
            submits.send((batch.tokens.len(), end)).unwrap();
            Ok(Pending::later(move || match ended.recv().unwrap() {
                Ok(logit) => Ok(Partials::new(1, vec![logit], vec![0]).unwrap()),
                Err(problem) => Err(model::Error::Device(problem.to_owned())),
            }))
        };
        let answer = Mutex::new(answer);
        let done: Done = Arc::new(move |_, computed| {
            let logit = computed.map(|partials| partials.get(0).unwrap().values[0]).map_err(|error| error.to_string());
            let _ = answer.lock().unwrap().send(logit);
        });
        let rank = spawn(move || waiter.serve(inbox, submit));
        Self { seat, jobs, done, submitted, answers, rank }
    }

    /// Gives the rank a step of so many tokens.
    fn compute(&self, tokens: u32) {
        let mut packer = Packer::default();
        let batch = match tokens {
            0 => PackedBatch { tokens: Vec::new(), segments: Vec::<Segment>::new(), ends: Vec::new() },
            _ => {
                packer.push((0..tokens).collect());
                packer.pack()
            }
        };
        let _ = self.jobs.send(Job { batch: Arc::new(batch), checksum: Checksum::Path, done: Arc::clone(&self.done) });
    }

    /// The way to end the next step that was submitted.
    fn submitted(&self, tokens: usize) -> Sender<End> {
        let (found, end) = self.submitted.recv_timeout(LONG).unwrap();
        assert_eq!(found, tokens);
        end
    }

    fn answer(&self) -> Result<f32, String> {
        self.answers.recv_timeout(LONG).unwrap()
    }

    fn sits(&self) -> bool {
        !matches!(self.seat.broadcast(None, 0), Err(collective::Error::RankLeft { .. }))
    }
}

#[test]
fn a_step_is_submitted_while_the_one_before_is_computed_and_answers_keep_the_order() {
    let bench = Bench::new();
    bench.compute(1);
    bench.compute(2);
    let (first, second) = (bench.submitted(1), bench.submitted(2));
    second.send(Ok(2.0)).unwrap();
    assert_eq!(bench.answers.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
    first.send(Ok(1.0)).unwrap();
    assert_eq!((bench.answer(), bench.answer()), (Ok(1.0), Ok(2.0)));
    assert!(bench.sits());
}

#[test]
fn a_step_that_fails_is_answered_in_its_turn_and_others_go_on() {
    let bench = Bench::new();
    for tokens in [1, 0, 2, 3] {
        bench.compute(tokens);
    }
    let (first, second, third) = (bench.submitted(1), bench.submitted(2), bench.submitted(3));
    third.send(Ok(3.0)).unwrap();
    second.send(Err("broke")).unwrap();
    first.send(Ok(1.0)).unwrap();
    let answers: Vec<_> = (0..4).map(|_| bench.answer()).collect();
    assert_eq!(answers, [Ok(1.0), Err("refused".to_owned()), Err("broke".to_owned()), Ok(3.0)]);
    assert!(bench.sits());
}

#[test]
fn a_rank_that_is_over_has_left_its_seat_and_waited_for_its_steps() {
    let bench = Bench::new();
    bench.compute(1);
    let end = bench.submitted(1);
    let Bench { seat, jobs, answers, rank, .. } = bench;
    drop(jobs);
    std::thread::sleep(Duration::from_millis(20));
    assert!(!rank.is_finished());
    end.send(Ok(1.0)).unwrap();
    rank.join().unwrap();
    assert_eq!(answers.try_recv(), Ok(Ok(1.0)));
    assert!(matches!(seat.broadcast(None, 0), Err(collective::Error::RankLeft { .. })));
}

#[test]
fn a_panic_of_who_waits_ends_the_rank() {
    let bench = Bench::new();
    bench.compute(1);
    // the device is gone without an answer
    drop(bench.submitted(1));
    let end = std::time::Instant::now() + LONG;
    while bench.sits() {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(Duration::from_millis(1));
    }
    bench.compute(2);
    let Bench { answers, rank, done, .. } = bench;
    rank.join().unwrap();
    drop(done);
    assert!(answers.recv_timeout(LONG).is_err(), "nothing was computed");
}
