//! `crates/client` as other programs use it, against a gateway that answers out of order, breaks off, is full, is silent or
//! goes away: every item comes out once with its own answer, in the order that was asked for, within the bounds.

use std::future::Future;
use std::time::Duration;

use client::{Answer, Client, Endpoint, Error, Options, Order, Work};
use proto::v1::item::Input;
use proto::v1::{Item, Status};
use service::Network;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::client::fake::{Behaviour, Fake, score_of};

/// Runs the client apart from the fake gateways' threads.
fn run<T>(work: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(work)
}

fn endpoints(fakes: &[&Fake]) -> Vec<Endpoint> {
    let endpoint = |fake: &&Fake| Endpoint::new(&*fake.address, Network::tcp(None, None), &*fake.address);
    fakes.iter().map(endpoint).collect()
}

fn text(text: impl Into<String>) -> Item {
    Item { input: Some(Input::Text(text.into())) }
}

/// Items that are numbers, each its own token.
fn numbers(count: usize) -> impl tokio_stream::Stream<Item = Work<usize>> + Send {
    tokio_stream::iter((0..count).map(|number| Work::new(number, text(number.to_string()))))
}

/// The answers of a client with these options to so many numbers, and how often one was sent again.
fn answers(fakes: &[&Fake], options: Options, count: usize) -> (Vec<Answer<usize>>, u64) {
    run(async {
        let mut scores = Client::connect(endpoints(fakes), options).await.unwrap().score(numbers(count));
        let mut answers = Vec::new();
        while let Some(answer) = scores.next().await {
            answers.push(answer.unwrap());
        }
        assert!(scores.next().await.is_none());
        (answers, scores.resent())
    })
}

/// Checks that each number has its own score, and gives back the numbers.
#[track_caller]
fn check(answers: Vec<Answer<usize>>) -> Vec<usize> {
    for Answer { token, results } in &answers {
        let score = results[0].as_ref().unwrap();
        assert_eq!((results.len(), Some(score.score)), (1, score_of(&token.to_string())), "{token}");
    }
    answers.into_iter().map(|answer| answer.token).collect()
}

#[test]
fn answers_come_in_the_order_that_was_asked_for() {
    let fake = Fake::start(Behaviour { reversed: 7, ..Behaviour::default() });
    let (in_order, _) = answers(&[&fake], Options::default(), 100);
    assert_eq!(check(in_order), (0..100).collect::<Vec<_>>());
    let (as_done, _) = answers(&[&fake], Options { order: Order::AsDone, ..Options::default() }, 100);
    let mut seen = check(as_done);
    assert_eq!(seen[..7], [6, 5, 4, 3, 2, 1, 0]);
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

#[test]
fn what_has_no_answer_when_a_gateway_breaks_off_goes_to_the_next() {
    let fake = Fake::start(Behaviour { reversed: 4, breaks: [6, 9].into(), ..Behaviour::default() });
    let (answers, resent) = answers(&[&fake], Options::default(), 60);
    assert_eq!(check(answers), (0..60).collect::<Vec<_>>());
    assert!(resent > 0 && fake.notes().streams.len() == 3, "{resent}");
}

#[test]
fn a_gateway_that_goes_away_is_replaced() {
    let slow = || Behaviour { takes: Duration::from_millis(5), ..Behaviour::default() };
    let (first, second) = (Fake::start(slow()), Fake::start(slow()));
    let both = endpoints(&[&first, &second]);
    let seen = run(async {
        let (mut scores, mut seen) = (Client::connect(both, Options::default()).await.unwrap().score(numbers(200)), 0);
        let mut first = Some(first);
        while let Some(answer) = scores.next().await {
            check(vec![answer.unwrap()]);
            seen += 1;
            if seen == 50 {
                first = None;
            }
        }
        assert!(first.is_none());
        seen
    });
    assert_eq!(seen, 200);
    assert!(second.notes().answers >= 100);
}

#[test]
fn items_and_bytes_without_an_answer_are_bounded() {
    let sent = |options: Options, bytes: usize| {
        let fake = Fake::start(Behaviour { silent: true, ..Behaviour::default() });
        let endless = std::iter::repeat_with(move || Work::new((), text("1".repeat(bytes))));
        run(async {
            let client = Client::connect(endpoints(&[&fake]), options).await.unwrap();
            let mut scores = client.score(tokio_stream::iter(endless));
            assert!(timeout(Duration::from_secs(1), scores.next()).await.is_err(), "nobody answers");
        });
        let notes = fake.notes();
        notes.streams[0].len()
    };
    assert_eq!(sent(Options { items: 10, ..Options::default() }, 10), 10);
    // the last may go over it
    assert_eq!(sent(Options { bytes: 5000, ..Options::default() }, 1000), 5);
}

#[test]
fn what_no_replica_could_compute_is_sent_again_as_long_as_there_is_patience() {
    let fake = Fake::start(Behaviour { first_unavailable: true, ..Behaviour::default() });
    let (some, resent) = answers(&[&fake], Options::default(), 30);
    assert_eq!((check(some).len(), resent), (30, 30));
    let never = Fake::start(Behaviour { never_available: true, ..Behaviour::default() });
    let (none, _) = answers(&[&never], Options { patience: Duration::from_millis(500), ..Options::default() }, 2);
    let failures = none.iter().map(|answer| answer.results[0].as_ref().unwrap_err().status).collect::<Vec<_>>();
    assert_eq!(failures, [Status::Unavailable; 2]);
}

#[test]
fn an_item_may_have_a_time_of_its_own() {
    let fake = Fake::start(Behaviour { full: 3, ..Behaviour::default() });
    let (some, resent) =
        answers(&[&fake], Options { timeout: Some(Duration::from_secs(20)), ..Options::default() }, 10);
    assert_eq!((check(some).len(), resent, fake.notes().streams.len()), (10, 3, 0));
    let slow = Fake::start(Behaviour { takes: Duration::from_secs(60), ..Behaviour::default() });
    let (late, _) = answers(&[&slow], Options { timeout: Some(Duration::from_millis(300)), ..Options::default() }, 1);
    assert_eq!(late[0].results[0].as_ref().unwrap_err().status, Status::DeadlineExceeded);
}

#[test]
fn what_has_nothing_to_score_or_is_too_large_keeps_its_place() {
    let fake = Fake::start(Behaviour { reversed: 2, largest: 50, ..Behaviour::default() });
    let work =
        [Work::new('a', text("1")), Work::none('b'), Work::new('c', text("2".repeat(99))), Work::new('d', text("3"))];
    run(async {
        let client = Client::connect(endpoints(&[&fake]), Options::default()).await.unwrap();
        let mut scores = client.score(tokio_stream::iter(work));
        let mut seen = Vec::new();
        while let Some(Ok(Answer { token, results })) = scores.next().await {
            if token == 'c' {
                let failure = results[0].as_ref().unwrap_err();
                assert!(failure.message.contains("limits.message"), "{failure}");
            }
            seen.push((token, results.first().map(|result| result.as_ref().map(|score| score.score).ok())));
        }
        assert_eq!(seen, [('a', Some(Some(0.1))), ('b', None), ('c', Some(None)), ('d', Some(Some(0.3)))]);
    });
}

#[test]
fn who_stops_waiting_and_comes_back_loses_nothing() {
    let fake = Fake::start(Behaviour { takes: Duration::from_millis(3), breaks: [9].into(), ..Behaviour::default() });
    run(async {
        let mut scores = Client::connect(endpoints(&[&fake]), Options::default()).await.unwrap().score(numbers(40));
        let mut seen = Vec::new();
        loop {
            match timeout(Duration::from_millis(1), scores.next()).await {
                Ok(Some(answer)) => seen.extend(check(vec![answer.unwrap()])),
                Ok(None) => break,
                Err(_) => {}
            }
        }
        assert_eq!(seen, (0..40).collect::<Vec<_>>());
    });
}

#[test]
fn errors_are_values() {
    let fake = Fake::start(Behaviour { models: vec!["a", "b"], ..Behaviour::default() });
    let refused = |options| run(Client::connect(endpoints(&[&fake]), options)).map(|_| ()).unwrap_err();
    assert!(matches!(refused(Options::default()), Error::Model { served, .. } if served == ["a", "b"]));
    let reading = proto::v1::Options { model: "a".to_owned(), max_length: 101, ..Default::default() };
    let error = refused(Options { reading, ..Options::default() });
    assert!(matches!(error, Error::Length { wanted: 101, limit: 100, .. }), "{error}");
    assert!(matches!(run(Client::connect(Vec::new(), Options::default())), Err(Error::NoEndpoint)));
    let gone = Endpoint::new("gone", Network::tcp(None, None), "127.0.0.1:1");
    let options = Options { patience: Duration::from_millis(100), ..Options::default() };
    let error = run(Client::connect(vec![gone], options)).map(|_| ()).unwrap_err();
    assert!(matches!(&error, Error::Unreachable { endpoint, .. } if endpoint == "gone"), "{error}");
}
