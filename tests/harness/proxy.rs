//! A way to a server that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Passes bytes between its clients and a server, as long as it is told to.
pub struct Proxy {
    address: SocketAddr,
    way: Arc<Mutex<Way>>,
}

/// How bytes pass.
#[derive(Default)]
struct Way {
    /// Requests with these bytes reach the server, whose answer is lost together with the connection; so often.
    cut_answers: Option<(Vec<u8>, usize)>,
    /// How often that has happened.
    cuts: usize,
    /// Answers are held back.
    is_silent: bool,
    /// Connections are refused.
    is_closed: bool,
    open: Vec<TcpStream>,
}

impl Proxy {
    /// Begins to listen on a free port.
    pub fn to(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let way: Arc<Mutex<Way>> = Arc::default();
        let shared = Arc::clone(&way);
        // It lives as long as the test's process: it is only ever asked by the test.
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if lock(&shared).is_closed {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                pass(&shared, &client, &server);
            }
        });
        Proxy { address, way }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Of the next `times` requests that contain `bytes` the server gets all, and the client no answer: the connection is
    /// cut when the server has answered.
    pub fn cut_answers_to(&self, bytes: &[u8], times: usize) {
        lock(&self.way).cut_answers = Some((bytes.to_vec(), times));
    }

    /// How many answers were cut.
    pub fn cuts(&self) -> usize {
        lock(&self.way).cuts
    }

    /// Holds answers back, or lets them through.
    pub fn set_silent(&self, is_silent: bool) {
        lock(&self.way).is_silent = is_silent;
    }

    /// Cuts all connections, and refuses new ones until it is opened again.
    pub fn set_closed(&self, is_closed: bool) {
        let mut way = lock(&self.way);
        way.is_closed = is_closed;
        if is_closed {
            way.open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        lock(&self.way).open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Two threads a connection: one for each direction.
fn pass(way: &Arc<Mutex<Way>>, client: &TcpStream, server: &TcpStream) {
    let cut = Arc::new(Mutex::new(false));
    let clone = |stream: &TcpStream| stream.try_clone().unwrap();
    lock(way).open.extend([clone(client), clone(server)]);
    let (mut from, mut to) = (clone(client), clone(server));
    let (shared, cut_here) = (Arc::clone(way), Arc::clone(&cut));
    thread::spawn(move || {
        let mut seen = Vec::new();
        copy(&mut from, &mut to, |bytes| {
            if is_to_be_cut(&shared, &mut seen, bytes) {
                *cut_here.lock().unwrap() = true;
            }
            true
        });
    });
    let (mut from, mut to) = (clone(server), clone(client));
    let shared = Arc::clone(way);
    thread::spawn(move || {
        copy(&mut from, &mut to, |_| {
            while lock(&shared).is_silent {
                thread::sleep(Duration::from_millis(5));
            }
            let is_cut = *cut.lock().unwrap();
            if is_cut {
                lock(&shared).cuts += 1;
            }
            !is_cut
        });
    });
}

/// Looks for the bytes also where they go across two reads.
fn is_to_be_cut(way: &Mutex<Way>, seen: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let mut way = lock(way);
    let Some((wanted, times)) = &mut way.cut_answers else { return false };
    seen.extend_from_slice(bytes);
    let is_there = seen.windows(wanted.len()).any(|window| window == wanted);
    let kept = seen.len().min(wanted.len().saturating_sub(1));
    seen.drain(..seen.len() - kept);
    if !is_there || *times == 0 {
        return false;
    }
    *times -= 1;
    true
}

/// Copies until one side ends, or `look` says so; then both are cut.
fn copy(from: &mut TcpStream, to: &mut TcpStream, mut look: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !look(&buffer[..length]) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}
