//! A registry that does what a script says: plain HTTP/1.1 on a port of its own, one request a connection, and a record
//! of all that it was asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    /// Names in lower case.
    headers: HashMap<String, String>,
    pub(crate) body: String,
    /// How many requests for this path there were before.
    pub(crate) earlier: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Bytes of the body after which the connection ends, whatever was announced.
    pub(crate) cut: Option<usize>,
    /// The connection stays open, silent, instead of ending.
    pub(crate) hang: bool,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Reply {
        Reply { status: 200, body: body.into(), ..Reply::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn redirect(to: impl Into<String>) -> Reply {
        Reply::status(307).header("location", to)
    }

    pub(crate) fn cut(mut self, after: usize) -> Reply {
        self.cut = Some(after);
        self
    }

    pub(crate) fn hang(mut self) -> Reply {
        self.hang = true;
        self
    }

    /// What a registry that knows `Range` makes of this answer.
    pub(crate) fn ranged(mut self, request: &Request) -> Reply {
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
        if let Some(first) =
            range.and_then(|range| range.strip_suffix('-')).and_then(|first| first.parse::<usize>().ok())
        {
            let length = self.body.len();
            self.body.drain(..first);
            self.status = 206;
            return self.header("content-range", format!("bytes {first}-{}/{length}", length - 1));
        }
        self
    }
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running registry; it ends with the value.
pub(crate) struct Registry {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Registry {
    pub(crate) async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Registry {
        Registry::listen(script, None).await
    }

    pub(crate) async fn start_tls(
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        tls: TlsAcceptor,
    ) -> Registry {
        Registry::listen(script, Some(tls)).await
    }

    async fn listen(
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, script): (_, Arc<Script>) = (Arc::clone(&requests), Arc::new(script));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, script, tls) = (Arc::clone(&log), Arc::clone(&script), tls.clone());
                tokio::spawn(async move {
                    // A client that goes away in the middle is none of the test's business.
                    let _ = match tls {
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &log, &*script).await,
                            Err(refused) => Err(refused),
                        },
                        None => serve(stream, &log, &*script).await,
                    };
                });
            }
        });
        Registry { address, requests, task }
    }

    /// Host and port.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Requests whose path contains `part`.
    pub(crate) fn requests_for(&self, part: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.path.contains(part)).collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S>(stream: S, log: &Mutex<Vec<Request>>, script: &Script) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    if stream.fill_buf().await?.first() == Some(&0x16) {
        // A client that wants TLS (RFC 8446 section 5.1): answered as Go's servers do.
        stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nthis is plain HTTP\n").await?;
        return stream.shutdown().await;
    }
    let mut request = read(&mut stream).await?;
    {
        let mut log = log.lock().unwrap();
        request.earlier = log.iter().filter(|other| other.path == request.path).count();
        log.push(request.clone());
    }
    let reply = script(&request);
    let mut head = format!("HTTP/1.1 {} Status\r\ncontent-length: {}\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let whole = if request.method == "HEAD" { 0 } else { reply.body.len() };
    let end = reply.cut.unwrap_or(whole);
    stream.write_all(&reply.body[..end]).await?;
    stream.flush().await?;
    if reply.hang {
        std::future::pending::<()>().await;
    }
    stream.shutdown().await
}

pub(crate) async fn read(stream: &mut BufReader<impl AsyncRead + Unpin>) -> std::io::Result<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body, earlier: 0 })
}
