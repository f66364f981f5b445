//! What is where until it is answered: requests, their pieces, and the attempts to have them computed.
//!
//! A piece waits, or is at exactly one replica. An answer must name the piece, its attempt and a conversation of it
//! that has no answer yet; whatever else arrives changes nothing. So nothing is lost and nothing is answered twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use score::{PieceId, Tag, Tail};

use crate::core::admission::Size;
use crate::core::request::{Cut, prompt_hash};
use crate::core::routing::Wanted;
use crate::core::{Failure, Outcome, ReplicaId, Request, RequestId, Score, Share, Time};

/// A piece on its way to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// What is to be computed.
    pub piece: score::Piece,
    /// Whose it is.
    pub request: RequestId,
    /// When its answers must be out.
    pub deadline: Time,
    /// What it is debited for: the prefix and each tail.
    pub tokens: u64,
}

/// All that came in and is not answered.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    requests: HashMap<RequestId, Entry>,
    /// In boxes: a table is up to half empty.
    pieces: HashMap<PieceId, Box<Piece>>,
    deadlines: BTreeSet<(Time, RequestId)>,
    sent: BTreeMap<ReplicaId, BTreeSet<PieceId>>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    share: Share,
    admitted: Time,
    deadline: Time,
    pieces: BTreeSet<PieceId>,
}

#[derive(Debug)]
pub(crate) struct Piece {
    request: RequestId,
    item: usize,
    /// The number of its first conversation in the item.
    first: usize,
    prefix: Arc<[u32]>,
    prompt: Option<u64>,
    conversations: Vec<Conversation>,
    /// What of it is held: the prefix until the end, and each tail until it is answered.
    tokens: u64,
    /// Conversations that have no answer, and those of them that the replica has not spoken about.
    unanswered: usize,
    open: usize,
    attempt: u32,
    sent: Option<Sent>,
    /// Where it failed last.
    failed_at: Option<ReplicaId>,
}

#[derive(Debug)]
struct Conversation {
    /// Empty when it is answered.
    tail: Arc<[u32]>,
    state: State,
    /// Where its score was not a finite number.
    not_finite_at: Option<ReplicaId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Failed,
    Answered,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    replica: ReplicaId,
    at: Time,
    tokens: u64,
}

/// What becomes free when a piece, or a conversation of it, is done with.
#[derive(Debug)]
pub(crate) struct Freed {
    /// Where it is, and what it was debited for; None if it waits.
    pub(crate) sent: Option<(ReplicaId, u64)>,
    pub(crate) tag: Tag,
    pub(crate) share: Share,
    pub(crate) size: Size,
    /// Answers for what had none.
    pub(crate) outcomes: Vec<Outcome>,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn knows(&self, request: RequestId) -> bool {
        self.requests.contains_key(&request)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Takes in a request that is cut into pieces, and says what each of them is called.
    pub(crate) fn open(&mut self, now: Time, request: &Request, cuts: Vec<Cut>) -> Vec<(PieceId, u64)> {
        let mut named = Vec::with_capacity(cuts.len());
        for cut in cuts {
            let Some(item) = request.items.get(cut.item) else { continue };
            let id = PieceId(self.next);
            self.next += 1;
            let tails = item.tails.get(cut.conversations.clone()).unwrap_or_default();
            let conversation = |tail: &Arc<[u32]>| Conversation::new(Arc::clone(tail));
            let piece = Piece {
                request: request.id,
                item: cut.item,
                first: cut.conversations.start,
                prefix: Arc::clone(&item.prefix),
                prompt: prompt_hash(&item.prefix),
                conversations: tails.iter().map(conversation).collect(),
                tokens: cut.tokens,
                unanswered: tails.len(),
                open: tails.len(),
                attempt: 0,
                sent: None,
                failed_at: None,
            };
            self.pieces.insert(id, Box::new(piece));
            named.push((id, cut.tokens));
        }
        let (admitted, deadline) = (now, request.deadline);
        let pieces = named.iter().map(|(id, _)| *id).collect();
        self.deadlines.insert((deadline, request.id));
        self.requests.insert(request.id, Entry { share: request.share(), admitted, deadline, pieces });
        named
    }

    pub(crate) fn piece(&self, id: PieceId) -> Option<&Piece> {
        self.pieces.get(&id).map(Box::as_ref)
    }

    pub(crate) fn share(&self, id: PieceId) -> Option<&Share> {
        let piece = self.pieces.get(&id)?;
        self.requests.get(&piece.request).map(|entry| &entry.share)
    }

    /// When a piece came in.
    pub(crate) fn admitted(&self, id: PieceId) -> Option<Time> {
        let piece = self.pieces.get(&id)?;
        self.requests.get(&piece.request).map(|entry| entry.admitted)
    }

    /// Notes that a piece goes to a replica.
    pub(crate) fn send(&mut self, now: Time, id: PieceId, (replica, urgent): (ReplicaId, bool)) -> Option<Dispatch> {
        let piece = self.pieces.get_mut(&id)?;
        let deadline = self.requests.get(&piece.request)?.deadline;
        let tokens = piece.size().tokens;
        piece.attempt += 1;
        piece.sent = Some(Sent { replica, at: now, tokens });
        self.sent.entry(replica).or_default().insert(id);
        let tag = Tag { piece: id, attempt: piece.attempt };
        let tail = |(conversation, ids)| Tail { conversation: conversation as u32, ids };
        let tails = piece.to_compute().into_iter().map(tail).collect();
        let (request, prefix) = (piece.request, Arc::clone(&piece.prefix));
        Some(Dispatch { piece: score::Piece { tag, prefix, tails, urgent }, request, deadline, tokens })
    }

    /// Whether a replica may speak about a conversation.
    pub(crate) fn expects(&self, replica: ReplicaId, tag: Tag, conversation: usize) -> bool {
        let Some(piece) = self.pieces.get(&tag.piece).filter(|piece| piece.attempt == tag.attempt) else {
            return false;
        };
        let at = piece.sent.is_some_and(|sent| sent.replica == replica);
        at && piece.get(conversation).is_some_and(|it| it.state == State::Open)
    }

    /// Answers a conversation that is expected, and says what that sets free.
    pub(crate) fn answer(
        &mut self,
        now: Time,
        (id, conversation): (PieceId, usize),
        result: Result<Score, Failure>,
    ) -> Option<Freed> {
        let piece = self.pieces.get_mut(&id)?;
        let entry = self.requests.get(&piece.request)?;
        let outcome = piece.outcome(now, entry.admitted, conversation, result);
        let tokens = piece.answered(conversation)?;
        let tag = Tag { piece: id, attempt: piece.attempt };
        let size = Size { tokens, conversations: 1 };
        Some(Freed { sent: None, tag, share: entry.share.clone(), size, outcomes: vec![outcome] })
    }

    /// Notes that a conversation that is expected has to be sent again.
    pub(crate) fn failed(&mut self, id: PieceId, conversation: usize, not_finite: bool) {
        let Some(piece) = self.pieces.get_mut(&id) else { return };
        let Some(replica) = piece.sent.map(|sent| sent.replica) else { return };
        if let Some(it) = piece.get_mut(conversation).filter(|it| it.state == State::Open) {
            it.state = State::Failed;
            it.not_finite_at = not_finite.then_some(replica);
            piece.open -= 1;
            piece.failed_at = Some(replica);
        }
    }

    /// Where the score of a conversation was not a finite number before.
    pub(crate) fn not_finite_at(&self, id: PieceId, conversation: usize) -> Option<ReplicaId> {
        self.pieces.get(&id)?.get(conversation)?.not_finite_at
    }

    /// Takes a piece back from where it is, if the replica has spoken about all of it or is `gone`.
    pub(crate) fn take_back(&mut self, id: PieceId, gone: bool) -> Option<(ReplicaId, u64)> {
        let piece = self.pieces.get_mut(&id).filter(|piece| piece.open == 0 || gone)?;
        let sent = piece.sent.take()?;
        if piece.open > 0 {
            piece.failed_at = Some(sent.replica);
        }
        let failed = piece.conversations.iter_mut().filter(|it| it.state == State::Failed);
        failed.for_each(|it| it.state = State::Open);
        piece.open = piece.unanswered;
        self.forget_sent(sent.replica, id);
        Some((sent.replica, sent.tokens))
    }

    /// Everything that is at a replica, in the order in which it came in.
    pub(crate) fn sent_to(&self, replica: ReplicaId) -> Vec<PieceId> {
        self.sent.get(&replica).into_iter().flatten().copied().collect()
    }

    /// A request whose deadline has passed.
    pub(crate) fn expired(&self, now: Time) -> Option<RequestId> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, request)| *request)
    }

    /// When the next deadline passes.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The pieces of a request that are not answered.
    pub(crate) fn pieces_of(&self, request: RequestId) -> Vec<PieceId> {
        self.requests.get(&request).into_iter().flat_map(|entry| &entry.pieces).copied().collect()
    }

    /// Removes a piece, and its request with the last of them. What has no answer gets `failure`.
    pub(crate) fn remove(&mut self, now: Time, id: PieceId, failure: &Failure) -> Option<Freed> {
        let piece = self.pieces.remove(&id)?;
        let entry = self.requests.get_mut(&piece.request)?;
        let unanswered = piece.to_compute().into_iter();
        let outcome = |(number, _)| piece.outcome(now, entry.admitted, number, Err(failure.clone()));
        let outcomes = unanswered.map(outcome).collect();
        let share = entry.share.clone();
        entry.pieces.remove(&id);
        if entry.pieces.is_empty() {
            self.deadlines.remove(&(entry.deadline, piece.request));
            self.requests.remove(&piece.request);
        }
        if let Some(sent) = piece.sent {
            self.forget_sent(sent.replica, id);
        }
        let tag = Tag { piece: id, attempt: piece.attempt };
        let sent = piece.sent.map(|sent| (sent.replica, sent.tokens));
        Some(Freed { sent, tag, share, size: piece.size(), outcomes })
    }

    fn forget_sent(&mut self, replica: ReplicaId, id: PieceId) {
        if let Some(pieces) = self.sent.get_mut(&replica) {
            pieces.remove(&id);
            if pieces.is_empty() {
                self.sent.remove(&replica);
            }
        }
    }
}

// === impl Piece ===

impl Piece {
    /// What it looks for.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted { tokens: self.size().tokens, prompt: self.prompt, avoid: self.failed_at, urgent: false }
    }

    /// How often it was sent.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempt
    }

    /// What of it is held.
    pub(crate) fn size(&self) -> Size {
        Size { tokens: self.tokens, conversations: self.unanswered as u64 }
    }

    fn to_compute(&self) -> Vec<(usize, Arc<[u32]>)> {
        let numbered = self.conversations.iter().enumerate();
        let unanswered = numbered.filter(|(_, it)| it.state != State::Answered);
        unanswered.map(|(position, it)| (self.first + position, Arc::clone(&it.tail))).collect()
    }

    fn get(&self, conversation: usize) -> Option<&Conversation> {
        self.conversations.get(conversation.checked_sub(self.first)?)
    }

    fn get_mut(&mut self, conversation: usize) -> Option<&mut Conversation> {
        self.conversations.get_mut(conversation.checked_sub(self.first)?)
    }

    /// Lets go of an open conversation; says how many tokens that were.
    fn answered(&mut self, conversation: usize) -> Option<u64> {
        let it = self.get_mut(conversation).filter(|it| it.state == State::Open)?;
        it.state = State::Answered;
        let tail = std::mem::take(&mut it.tail);
        self.open -= 1;
        self.unanswered -= 1;
        self.tokens -= tail.len() as u64;
        Some(tail.len() as u64)
    }

    fn outcome(&self, now: Time, admitted: Time, number: usize, result: Result<Score, Failure>) -> Outcome {
        let sent = self.sent.map_or(now, |sent| sent.at);
        let (queued, computed): (Duration, Duration) = (sent.since(admitted), now.since(sent));
        let tail = self.get(number).map_or(0, |it| it.tail.len());
        let tokens = (self.prefix.len() + tail) as u64;
        Outcome { request: self.request, item: self.item, conversation: number, tokens, result, queued, computed }
    }
}

// === impl Conversation ===

impl Conversation {
    fn new(tail: Arc<[u32]>) -> Self {
        Self { tail, state: State::Open, not_finite_at: None }
    }
}
