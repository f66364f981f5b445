//! A TCP connection to etcd with faults: cut, so that nothing goes through while it stays open, and deaf, so that what
//! was asked arrives and the answer does not.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A proxy on 127.0.0.1; its connections end with it.
pub(super) struct Proxy {
    port: u16,
    faults: Arc<Faults>,
    task: JoinHandle<()>,
}

struct Faults {
    cut: watch::Sender<bool>,
    /// Connections of an older generation end.
    generation: watch::Sender<u64>,
    /// The connection that asks for something with these bytes becomes deaf.
    needle: Mutex<Option<Vec<u8>>>,
}

impl Proxy {
    pub(super) async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults =
            Faults { cut: watch::Sender::new(false), generation: watch::Sender::new(0), needle: Mutex::new(None) };
        let faults = Arc::new(faults);
        let task = tokio::spawn(serve(listener, target.to_owned(), Arc::clone(&faults)));
        Self { port, faults, task }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn cut(&self) {
        self.faults.cut.send_replace(true);
    }

    pub(super) fn mend(&self) {
        self.faults.cut.send_replace(false);
    }

    /// Ends the connections of now, with what is under way in them.
    pub(super) fn forget(&self) {
        self.faults.generation.send_modify(|generation| *generation += 1);
    }

    pub(super) fn lose_answer_to(&self, bytes: &[u8]) {
        *self.faults.needle.lock().unwrap() = Some(bytes.to_vec());
    }
}

impl Faults {
    /// Whether this is what an answer is to be lost for.
    fn take_needle(&self, bytes: &[u8]) -> bool {
        let mut needle = self.needle.lock().unwrap();
        needle.take_if(|needle| bytes.windows(needle.len()).any(|window| window == needle)).is_some()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.forget();
    }
}

async fn serve(listener: TcpListener, target: String, faults: Arc<Faults>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let Ok(server) = TcpStream::connect(&target).await else { continue };
        let faults = Arc::clone(&faults);
        tokio::spawn(async move {
            let deaf = watch::Sender::new(false);
            let mut generation = faults.generation.subscribe();
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::select! {
                () = requests(from_client, to_server, &faults, &deaf) => {}
                () = answers(from_server, to_client, &faults, &deaf) => {}
                _ = generation.changed() => {}
            }
        });
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: &Faults, deaf: &watch::Sender<bool>) {
    while let Some(bytes) = read(&mut from, faults).await {
        if faults.take_needle(&bytes) {
            deaf.send_replace(true);
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: &Faults, deaf: &watch::Sender<bool>) {
    while let Some(bytes) = read(&mut from, faults).await {
        if !*deaf.borrow() && to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// The next bytes, when the connection is whole; None at the end.
async fn read(from: &mut OwnedReadHalf, faults: &Faults) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 64 * 1024];
    let count = from.read(&mut bytes).await.ok().filter(|count| *count > 0)?;
    bytes.truncate(count);
    faults.cut.subscribe().wait_for(|cut| !cut).await.ok()?;
    Some(bytes)
}
