//! Bad input on every RPC of a real gateway with real replicas: each has its documented code, whatever was wrong gets no
//! score, and the golden score comes right behind it.
//!
//! The gateway serves one model several times, each with something wrong behind its name but for `good`.

use std::path::Path;
use std::time::{Duration, Instant};

use discovery::etcd_cluster::EtcdCluster;
use proto::Message;
use proto::v1 as wire;
use tempfile::TempDir;
use tests::golden;
use tonic::Code;
use tonic::transport::Channel;
use wire::item::Input;
use wire::reward_service_client::RewardServiceClient;
use wire::status_service_client::StatusServiceClient;
use wire::{ReplicaState, Status};

use super::processes::{MODEL, Process, STEP, dial, free_port};
use super::raw::{self, Answer, Call, End, frame, framed};
use super::turn;
use crate::assay::{expected, ids};
use crate::{broken_model, replica};

const RPCS: [&str; 4] = ["Score", "ScoreStream", "Tokenize", "ListModels"];

/// A token that no golden conversation has, and not the step that begins an epoch. `rows` embeds it in two ways.
const TOKEN: u32 = 64;
/// What a message may have.
const LARGEST: usize = 1 << 20;
/// How long the cluster may take to be as it should.
const START: Duration = Duration::from_secs(60);
/// The deadline of what no replica can compute.
const SHORT: &str = "2S";
/// What the transport says if its timer comes before the answer, as it may on a machine that is busy: it
/// counts from the head of a call on, and the gateway from its message on.
const LATE: &str = "Timeout expired";
/// Stands where bytes are that are no text.
const NO_TEXT: &str = "????";

/// What goes wrong, how it is sent, and what each of the four RPCs says.
struct Row(&'static str, Given, [Heard; 4]);

/// What is sent.
enum Given {
    /// Items, as each RPC takes them; the last gets those of `Score`, as fields that it does not know.
    Items(Vec<wire::Item>, wire::Options),
    /// The same, with bytes that are no text in them.
    NoText(Vec<wire::Item>),
    /// What is right, with metadata.
    With(&'static str, &'static str),
    /// A message of these bytes, the same for all.
    Message(Vec<u8>),
    /// These bytes, frames and all.
    Body(Vec<u8>),
}

/// What comes back.
#[derive(Debug, Clone, Copy)]
enum Heard {
    /// The call fails with this code and these words.
    Fails(Code, &'static str),
    /// The call succeeds, and each of its conversations has this status, and these words for why.
    Each(Status, &'static str),
    /// The models.
    Listed,
}

use Given::{Body, Items, NoText, With};
use Heard::{Each, Fails, Listed};

/// All processes.
struct Rig {
    address: String,
    client: RewardServiceClient<Channel>,
    status: StatusServiceClient<Channel>,
    good: (wire::ScoreRequest, u32),
    shards: Vec<Process>,
    _gateway: Process,
    _etcd: EtcdCluster,
    _folders: Vec<TempDir>,
}

// === impl Rig ===

impl Rig {
    async fn start() -> Self {
        let etcd = EtcdCluster::start(1).await;
        let folder = tempfile::tempdir().unwrap();
        let (infinite, row) =
            (broken_model::overflowing(MODEL), broken_model::with_another_embedding(MODEL, TOKEN.into()));
        let (text, norm) = (broken_model::with_another_tokenizer(MODEL), broken_model::with_another_norm(MODEL));
        let right = golden(MODEL);
        let shard = |model: &str, ranks: &str, folder_of: &Path| {
            let world_size = if ranks == "0..1" && model != "rows" && model != "norms" { 1 } else { 2 };
            let line = format!(
                "shard --model {} --name {model} --replica {model} --tensor-parallel {world_size} --ranks {ranks} \
                 --threads 1 --max-batch-tokens {STEP} --listen 127.0.0.1:0 --etcd {}",
                folder_of.display(),
                etcd.endpoint(0)
            );
            Process::of_line(&format!("{model}-{}", ranks.replace("..", "-")), &line, folder.path())
        };
        let shards = vec![
            shard("good", "0..2", &right),
            shard("infinite", "0..1", infinite.path()),
            shard("rows", "0..1", &right),
            shard("rows", "1..2", row.path()),
            shard("norms", "0..1", &right),
            shard("norms", "1..2", norm.path()),
            shard("text", "0..1", text.path()),
        ];
        let port = free_port();
        let config = folder.path().join("gateway.toml");
        let served = |name| format!("[[models]]\nmodel = {right:?}\nname = \"{name}\"\nmax_length = {STEP}\n");
        let models: String = ["good", "infinite", "rows", "norms", "text"].map(served).concat();
        let pauses = "[routing]\npause = \"50ms\"\nlongest_pause = \"100ms\"\n";
        std::fs::write(&config, format!("http = \"none\"\n[limits]\nmessage = \"1MiB\"\n{pauses}{models}")).unwrap();
        let line =
            format!("gateway --config {} --listen 127.0.0.1:{port} --etcd {}", config.display(), etcd.endpoint(0));
        let gateway = Process::of_line("gateway", &line, folder.path());
        let address = format!("127.0.0.1:{port}");
        let client = connected(&address).await;
        let status = StatusServiceClient::connect(format!("http://{address}")).await.unwrap();
        let folders = vec![folder, infinite, row, text, norm];
        let (good, shards, _gateway, _etcd, _folders) = (good(), shards, gateway, etcd, folders);
        let mut rig = Self { address, client, status, good, shards, _gateway, _etcd, _folders };
        rig.settle().await;
        rig
    }

    /// Waits until every replica is what it will be.
    async fn settle(&mut self) {
        let end = Instant::now() + START;
        let wanted = ["good", "infinite", "rows"].map(|name| (name, ReplicaState::Ready));
        loop {
            let response = self.status.get_status(wire::GetStatusRequest {}).await.unwrap().into_inner();
            let state =
                |name: &str| response.replicas.iter().find(|it| it.name == name).map(wire::ReplicaStatus::state);
            let refused = self.shards.iter().any(|shard| shard.log().contains("they would compute another model"));
            let settled = wanted.iter().all(|(name, wanted)| state(name) == Some(*wanted));
            if settled && refused && state("text") == Some(ReplicaState::Refused) {
                return;
            }
            assert!(Instant::now() < end, "{:#?}", response.replicas);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What an RPC says of what is given.
    async fn ask(&self, rpc: &str, given: &Given) -> Answer {
        let call = Call { metadata: metadata(given), body: body(rpc, given), end: End::Closed };
        for _ in 0..5 {
            let answer = raw::call(&self.address, rpc, call.clone()).await.unwrap();
            if answer.problem != LATE {
                return answer;
            }
        }
        panic!("{rpc} is late again and again");
    }

    /// The golden score, still.
    async fn goes_on(&mut self, after: &str) {
        let response = self.client.score(self.good.0.clone()).await;
        let response = response.unwrap_or_else(|status| panic!("after {after}: {status}")).into_inner();
        let result = &response.items[0].results[0];
        assert_eq!(result.score.map(f32::to_bits), Some(self.good.1), "after {after}: {result:?}");
    }

    /// Nothing is held that nobody waits for.
    async fn holds_nothing(&mut self) {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let response = self.status.get_status(wire::GetStatusRequest {}).await.unwrap().into_inner();
            let held: u64 = response.models.iter().map(|model| model.conversations).sum();
            if held == 0 {
                return;
            }
            assert!(Instant::now() < end, "{held} conversations are held");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn connected(address: &str) -> RewardServiceClient<Channel> {
    let end = Instant::now() + START;
    loop {
        match dial(format!("http://{address}")).await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A golden conversation, and the bits of its score.
fn good() -> (wire::ScoreRequest, u32) {
    let sequence = ids(&expected(MODEL)[2]);
    let scores = replica::scores(&replica::load(MODEL, 2, 1), &[sequence.clone().into()]);
    let request = wire::ScoreRequest { items: vec![token_ids(&sequence)], options: Some(model("good")) };
    (request, scores[0].to_bits())
}

// === what is sent ===

fn model(name: &str) -> wire::Options {
    wire::Options { model: name.to_owned(), ..Default::default() }
}

fn item(input: Input) -> wire::Item {
    wire::Item { input: Some(input) }
}

fn token_ids(ids: &[u32]) -> wire::Item {
    item(Input::TokenIds(wire::TokenIds { ids: ids.to_vec() }))
}

fn text(text: &str) -> wire::Item {
    item(Input::Text(text.to_owned()))
}

fn turns(turns: &[(&str, &str)]) -> wire::Item {
    let turn = |(role, content): &(&str, &str)| {
        let (role, content) = ((*role).to_owned(), (*content).to_owned());
        wire::Message { role, content, ..wire::Message::default() }
    };
    item(Input::Messages(wire::Messages { messages: turns.iter().map(turn).collect() }))
}

fn group(prompt: &str, responses: usize) -> wire::Item {
    let prompt = Some(wire::group::Prompt::Text(prompt.to_owned()));
    item(Input::Group(wire::Group { prompt, responses: vec![String::new(); responses] }))
}

fn metadata(given: &Given) -> Vec<(&'static str, String)> {
    match given {
        With(key, value) => vec![(key, (*value).to_owned())],
        Items(_, options) if ["norms", "text"].contains(&&*options.model) => vec![("grpc-timeout", SHORT.to_owned())],
        _ => Vec::new(),
    }
}

fn body(rpc: &str, given: &Given) -> Vec<u8> {
    match given {
        Items(items, options) => requests(rpc, items, options),
        With(..) => requests(rpc, &[text("hello")], &model("good")),
        NoText(items) => {
            let mut body = requests(rpc, items, &model("good"));
            let at = body.windows(NO_TEXT.len()).position(|window| window == NO_TEXT.as_bytes()).unwrap();
            body[at..at + NO_TEXT.len()].copy_from_slice(b"\xff\xfe\xc0\x80");
            body
        }
        Given::Message(message) => framed(message),
        Body(body) => body.clone(),
    }
}

fn requests(rpc: &str, items: &[wire::Item], options: &wire::Options) -> Vec<u8> {
    let (owned, options) = (items.to_vec(), Some(options.clone()));
    match rpc {
        "Tokenize" => frame(&wire::TokenizeRequest { items: owned, options }),
        "ScoreStream" => {
            let request = |(id, item): (u64, &wire::Item)| {
                frame(&wire::ScoreStreamRequest { id, item: Some(item.clone()), options: options.clone() })
            };
            (0..).zip(items).flat_map(request).collect()
        }
        _ => frame(&wire::ScoreRequest { items: owned, options }),
    }
}

// === what is heard ===

/// The statuses of all conversations, what is said about them, and how many have a score.
fn results(rpc: &str, answer: &Answer) -> (Vec<(Status, String)>, usize) {
    let mut results = Vec::new();
    for message in &answer.messages {
        match rpc {
            "Score" => results.extend(wire::ScoreResponse::decode(&**message).unwrap().items),
            "ScoreStream" => results.extend(wire::ScoreStreamResponse::decode(&**message).unwrap().item),
            _ => {
                let items = wire::TokenizeResponse::decode(&**message).unwrap().items;
                let tokenized = items.into_iter().flat_map(|item| item.conversations);
                return (tokenized.map(|it| (it.status(), it.error.clone())).collect(), 0);
            }
        }
    }
    let results: Vec<wire::Result> = results.into_iter().flat_map(|item| item.results).collect();
    let scores = results.iter().filter(|result| result.score.is_some()).count();
    (results.into_iter().map(|result| (result.status(), result.error)).collect(), scores)
}

fn judge(what: &str, rpc: &str, answer: &Answer, expected: Heard) {
    let at = format!("{what}, {rpc}: {:?} {:?}", answer.code, answer.problem);
    match expected {
        Fails(code, words) => {
            assert_eq!(answer.code, code, "{at}");
            assert!(answer.problem.contains(words), "{at}: no {words:?}");
        }
        Each(status, words) => {
            assert_eq!(answer.code, Code::Ok, "{at}");
            let (found, scores) = results(rpc, answer);
            assert!(!found.is_empty(), "{at}");
            let right = |(found, problem): &(Status, String)| *found == status && problem.contains(words);
            assert!(found.iter().all(right), "{at}: {:?}", found.iter().find(|it| !right(it)));
            let has_score = status == Status::Ok && rpc != "Tokenize";
            assert_eq!(scores, if has_score { found.len() } else { 0 }, "{at}");
        }
        Listed => {
            assert_eq!(answer.code, Code::Ok, "{at}");
            let models = wire::ListModelsResponse::decode(&*answer.messages[0]).unwrap().models;
            let ready: Vec<_> = models.iter().map(|it| (&*it.name, it.replicas_ready)).collect();
            assert_eq!(ready, [("good", 1), ("infinite", 1), ("norms", 0), ("rows", 1), ("text", 0)], "{at}");
        }
    }
}

// === the table ===

/// Items that fail each by itself.
fn each(what: &'static str, items: Vec<wire::Item>, status: Status, words: &'static str) -> Row {
    Row(what, Items(items, model("good")), [Each(status, words), Each(status, words), Each(status, words), Listed])
}

/// Items of a model that cannot score them, though it can be read.
fn unscored(what: &'static str, name: &str, ids: &[u32], status: Status, words: &'static str) -> Row {
    let scores = Each(status, words);
    Row(what, Items(vec![token_ids(ids)], model(name)), [scores, scores, Each(Status::Ok, ""), Listed])
}

/// What is no message for any of them.
fn unread(what: &'static str, given: Given, code: Code) -> Row {
    Row(what, given, [Fails(code, ""); 4])
}

fn of_contents() -> Vec<Row> {
    let invalid = Status::Invalid;
    let none = Fails(Code::InvalidArgument, "items: there are none");
    let unknown = "the model \"large\" is not served, but: good, infinite, norms, rows, text";
    let not_found = Fails(Code::NotFound, unknown);
    let unnamed = Fails(Code::InvalidArgument, "options.model: name one of good");
    let options = wire::Options { max_length: 9999, ..model("good") };
    let too_much = "options.max_length: 9999, the model takes 2048 tokens";
    let most = Fails(Code::InvalidArgument, too_much);
    let long = vec![5; 2049];
    let room = Fails(Code::ResourceExhausted, "bytes of conversations at once");
    let broad = Items(vec![group(&"x".repeat(900_000), 300)], model("good"));
    vec![
        // a stream without items is a stream that has ended
        Row("no items", Items(Vec::new(), model("good")), [none, Fails(Code::Ok, ""), none, Listed]),
        each("an empty item", vec![wire::Item::default()], invalid, "the item is empty"),
        each("no messages", vec![turns(&[])], invalid, "empty"),
        each("no text", vec![text("")], invalid, "text is empty"),
        each("no token ids", vec![token_ids(&[])], invalid, "token_ids: there are none"),
        each("no responses", vec![group("p", 0)], invalid, ""),
        each("another role", vec![turns(&[("user", "a"), ("robot", "b")])], invalid, "unknown role"),
        each("nobody answers", vec![turns(&[("user", "a")])], invalid, "the last turn must be the assistant's"),
        each("wrong token ids", vec![token_ids(&[2, 768]), token_ids(&[u32::MAX])], invalid, "outside the vocabulary"),
        each("too many tokens", vec![token_ids(&long)], Status::TooLong, "2049 tokens are more than the limit of 2048"),
        each("many empty items", vec![wire::Item::default(); 5000], invalid, "the item is empty"),
        Row("a prompt for each of many", broad, [room, Each(invalid, "at once"), room, Listed]),
        Row(
            "unknown model",
            Items(vec![text("a")], model("large")),
            [not_found, Each(invalid, unknown), not_found, Listed],
        ),
        Row("no model", Items(vec![text("a")], model("")), [unnamed, Each(invalid, "name one of"), unnamed, Listed]),
        Row(
            "a limit above the model's",
            Items(vec![text("a")], options),
            [most, Each(invalid, too_much), most, Listed],
        ),
    ]
}

fn of_bytes() -> Vec<Row> {
    let no_text = |what, item| {
        let fails = Fails(Code::Internal, "");
        // fields that a message does not have are skipped as they are
        Row(what, NoText(vec![item]), [fails, fails, fails, Listed])
    };
    let half = &framed(&[0x0a, 0x05, 0x1a, 0x03, b'a', b'b', b'c'])[..9];
    vec![
        no_text("a text that is no UTF-8", text(NO_TEXT)),
        no_text("a role that is no UTF-8", turns(&[(NO_TEXT, "a")])),
        no_text("a content that is no UTF-8", turns(&[("user", "a"), ("assistant", NO_TEXT)])),
        unread("bytes that are no message", Given::Message(b"\xff\xff\xff".to_vec()), Code::Internal),
        unread("a message that ends early", Given::Message(vec![0x0a, 0x7f, 1, 2]), Code::Internal),
        unread("a frame that ends early", Body(half.to_vec()), Code::Internal),
        unread("a huge message", Given::Message(frame(&text(&"x".repeat(2 * LARGEST)))), Code::OutOfRange),
        unread("a message said to be huge", Body(vec![0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]), Code::OutOfRange),
        unread("a message said to be compressed", Body(vec![1, 0, 0, 0, 0]), Code::Internal),
        unread("a frame of no kind", Body(vec![7, 0, 0, 0, 0]), Code::Internal),
    ]
}

fn of_metadata() -> Vec<Row> {
    let refused = |what, value, code| {
        let fails = Fails(code, "");
        Row(what, With("grpc-timeout", value), [fails, fails, fails, Listed])
    };
    let tenant = Fails(Code::InvalidArgument, "x-assay-tenant");
    vec![
        refused("a deadline that has passed", "0S", Code::DeadlineExceeded),
        refused("a deadline that passes at once", "1n", Code::DeadlineExceeded),
        refused("a deadline that is none", "soon", Code::InvalidArgument),
        Row("a tenant without a name", With("x-assay-tenant", ""), [tenant, tenant, tenant, Listed]),
    ]
}

fn of_replicas() -> Vec<Row> {
    let digest = "another config, tokenizer or template";
    vec![
        unscored("weights without a finite score", "infinite", &[2, 5, 6], Status::Internal, "finite"),
        unscored("another row on one rank", "rows", &[2, 6, TOKEN], Status::Internal, "computed different rows"),
        unscored("other weights on one rank", "norms", &[2, 5, 6], Status::Unavailable, "no replica of the model is"),
        unscored("another tokenizer at the replica", "text", &[2, 5, 6], Status::Unavailable, digest),
    ]
}

// === tests ===

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_has_its_code_on_every_rpc_and_the_cluster_goes_on() {
    let _turn = turn().await;
    let mut rig = Rig::start().await;
    // the rank with another row takes part: what does not show the row has the golden score
    let mut request = rig.good.0.clone();
    request.options = Some(model("rows"));
    let response = rig.client.score(request).await.unwrap().into_inner();
    assert_eq!(response.items[0].results[0].score.map(f32::to_bits), Some(rig.good.1), "{response:?}");
    let start = Instant::now();
    let rows: Vec<Row> = [of_contents(), of_bytes(), of_metadata(), of_replicas()].into_iter().flatten().collect();
    for Row(what, given, expected) in &rows {
        let start = Instant::now();
        let answers = futures_util::future::join_all(RPCS.map(|rpc| rig.ask(rpc, given))).await;
        for ((rpc, answer), expected) in RPCS.into_iter().zip(&answers).zip(*expected) {
            judge(what, rpc, answer, expected);
        }
        rig.goes_on(what).await;
        if start.elapsed() > Duration::from_secs(1) {
            println!("{what}: {:.1?}", start.elapsed());
        }
    }
    println!("{} kinds of bad input on {} RPCs took {:.1?}", rows.len(), RPCS.len(), start.elapsed());
    let start = Instant::now();
    cut(&mut rig).await;
    println!("what was cut took {:.1?}", start.elapsed());
}

/// Calls that end in the middle, of a message and behind one, each with much in flight.
async fn cut(rig: &mut Rig) {
    let items = vec![token_ids(&vec![5; 2000]); 10];
    for end in [End::Reset, End::HungUp] {
        for rpc in RPCS {
            let whole = requests(rpc, &items, &model("good"));
            for length in [whole.len(), whole.len() - 7, 3] {
                let call = Call { body: whole[..length].to_vec(), end, ..Call::default() };
                assert!(raw::call(&rig.address, rpc, call).await.is_none());
            }
            rig.holds_nothing().await;
            rig.goes_on(&format!("{rpc} {end:?}")).await;
        }
    }
}
