//! Steady load of mixed sizes on a cluster, by clients that know every score before they ask, and go to another gateway
//! when one is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proto::v1 as wire;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Request};
use wire::item::Input;
use wire::reward_service_client::RewardServiceClient;

use super::processes::{MODEL, dial};
use crate::assay::{expected, ids};
use crate::replica;

/// How long a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// An answer may be so late: the deadline is kept by the server, and the machine is busy.
const LATE: Duration = Duration::from_secs(2);

/// What clients ask, with what they must hear.
pub(crate) struct Items {
    items: Vec<(wire::Item, Vec<f32>)>,
}

/// Clients that go on until they are told to end.
pub(crate) struct Load {
    clients: JoinSet<()>,
    shared: Arc<Shared>,
}

struct Shared {
    end: AtomicBool,
    seen: Mutex<Seen>,
}

/// What clients have seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Conversations with the right score.
    pub(crate) right: usize,
    /// Conversations that were refused, by status or code.
    pub(crate) refused: BTreeMap<String, usize>,
    /// Whatever must never happen.
    pub(crate) wrong: Vec<String>,
    /// Calls that had to go to another gateway.
    pub(crate) moved: usize,
    /// The longest call.
    pub(crate) longest: Duration,
}

// === impl Items ===

impl Items {
    /// The golden conversations, alone and as groups of token ids, scored by a replica of this process.
    pub(crate) fn new(tensor_parallel: usize) -> Self {
        let sequences: Vec<Arc<[u32]>> = expected(MODEL).iter().map(|row| ids(row).into()).collect();
        let replica = replica::load(MODEL, tensor_parallel, 1);
        let scores = replica::scores(&replica, &sequences);
        let mut items = Vec::new();
        for (row, (sequence, score)) in expected(MODEL).iter().zip(sequences.iter().zip(&scores)) {
            let token_ids = wire::TokenIds { ids: sequence.to_vec() };
            items.push((item(Input::TokenIds(token_ids)), vec![*score]));
            let messages = row["messages"].as_array().unwrap().iter().map(|message| wire::Message {
                role: message["role"].as_str().unwrap().to_owned(),
                content: message["content"].as_str().unwrap().to_owned(),
                ..wire::Message::default()
            });
            let messages = wire::Messages { messages: messages.collect() };
            items.push((item(Input::Messages(messages)), vec![*score]));
        }
        Self { items }
    }

    /// All of them in one request.
    pub(crate) fn request(&self) -> (wire::ScoreRequest, Vec<f32>) {
        let items = self.items.iter().map(|(item, _)| item.clone()).collect();
        let scores = self.items.iter().flat_map(|(_, scores)| scores.clone()).collect();
        (wire::ScoreRequest { items, options: None }, scores)
    }

    /// Some of them, chosen by a number.
    fn some(&self, number: u64) -> (wire::ScoreRequest, Vec<f32>) {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17;
        let count = [1, 1, 2, 8][(mixed % 4) as usize];
        let chosen = (0..count).map(|at| &self.items[((mixed / 4 + 7 * at) % self.items.len() as u64) as usize]);
        let (items, scores): (Vec<_>, Vec<_>) = chosen.cloned().unzip();
        (wire::ScoreRequest { items, options: None }, scores.concat())
    }
}

fn item(input: Input) -> wire::Item {
    wire::Item { input: Some(input) }
}

// === impl Load ===

impl Load {
    /// Starts so many clients on these gateways.
    pub(crate) fn start(endpoints: &[String], items: Arc<Items>, clients: usize) -> Self {
        let shared = Arc::new(Shared { end: AtomicBool::new(false), seen: Mutex::default() });
        let mut running = JoinSet::new();
        for number in 0..clients {
            let client = Client {
                endpoints: endpoints.to_vec(),
                gateway: number % endpoints.len(),
                line: None,
                items: Arc::clone(&items),
                shared: Arc::clone(&shared),
            };
            running.spawn(client.run(number as u64 * 1_000_003));
        }
        Self { clients: running, shared }
    }

    /// What they have seen so far.
    pub(crate) fn seen(&self) -> Seen {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits for the last answers.
    pub(crate) async fn end(mut self) -> Seen {
        self.shared.end.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.seen()
    }
}

struct Client {
    endpoints: Vec<String>,
    gateway: usize,
    line: Option<RewardServiceClient<Channel>>,
    items: Arc<Items>,
    shared: Arc<Shared>,
}

impl Client {
    async fn run(mut self, seed: u64) {
        let mut number = seed;
        while !self.shared.end.load(Ordering::SeqCst) {
            number += 1;
            let (request, scores) = self.items.some(number);
            let start = Instant::now();
            let answer = self.ask(&request, start).await;
            self.judge(answer, &scores, start.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks until there is an answer or the deadline has passed; another gateway when one is away.
    async fn ask(
        &mut self,
        request: &wire::ScoreRequest,
        start: Instant,
    ) -> Result<wire::ScoreResponse, tonic::Status> {
        loop {
            let left = DEADLINE.saturating_sub(start.elapsed());
            let call = async {
                let line = match &mut self.line {
                    Some(line) => line,
                    None => {
                        let line = dial(self.endpoints[self.gateway].clone()).await;
                        self.line.insert(line.map_err(|error| tonic::Status::unavailable(error.to_string()))?)
                    }
                };
                let mut request = Request::new(request.clone());
                request.set_timeout(left);
                Ok(line.score(request).await?.into_inner())
            };
            let answer = tokio::time::timeout(left + LATE, call).await;
            let answer = answer.unwrap_or_else(|_| Err(tonic::Status::new(Code::Unknown, "no answer at all")));
            let again = |status: &tonic::Status| {
                matches!(status.code(), Code::Unavailable | Code::Cancelled)
                    || std::error::Error::source(status).is_some()
            };
            match answer {
                Err(status) if again(&status) && start.elapsed() + Duration::from_millis(200) < DEADLINE => {
                    self.line = None;
                    self.gateway = (self.gateway + 1) % self.endpoints.len();
                    self.shared.seen.lock().unwrap().moved += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                answer => return answer,
            }
        }
    }

    fn judge(&self, answer: Result<wire::ScoreResponse, tonic::Status>, scores: &[f32], took: Duration) {
        let mut seen = self.shared.seen.lock().unwrap();
        seen.longest = seen.longest.max(took);
        if took > DEADLINE + LATE {
            seen.wrong.push(format!("an answer after {took:?}"));
        }
        let response = match answer {
            Ok(response) => response,
            Err(status) if status.code() == Code::Unknown => return seen.wrong.push(status.to_string()),
            Err(status) => {
                *seen.refused.entry(format!("{:?}", status.code())).or_default() += scores.len();
                return;
            }
        };
        let results: Vec<&wire::Result> = response.items.iter().flat_map(|item| &item.results).collect();
        if results.len() != scores.len() {
            seen.wrong.push(format!("{} results for {} conversations", results.len(), scores.len()));
        }
        for (result, score) in results.into_iter().zip(scores) {
            match (result.status(), result.score) {
                (wire::Status::Ok, Some(found)) if found.to_bits() == score.to_bits() => seen.right += 1,
                (wire::Status::Unavailable | wire::Status::DeadlineExceeded, None) => {
                    *seen.refused.entry(result.status().as_str_name().to_owned()).or_default() += 1;
                }
                (status, found) => {
                    seen.wrong.push(format!("{status:?} {found:?} instead of {score}: {}", result.error));
                }
            }
        }
    }
}
