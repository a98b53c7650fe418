//! A registry that has everything in memory: HTTP/1.1, a thread for each connection.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use image_service::Digest;

use crate::images::{self, Part};

/// Serves these images until it is killed; prints its address when it does.
pub(crate) fn serve(names: &[String]) {
    let parts = names.iter().flat_map(|name| images::parts(name));
    let parts: HashMap<String, Part> = parts.map(|part| (part.path.clone(), part)).collect();
    let parts = Arc::new(parts);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        let parts = Arc::clone(&parts);
        std::thread::spawn(move || connection(&stream.unwrap(), &parts));
    }
}

/// Answers until the client goes away.
fn connection(mut stream: &TcpStream, parts: &HashMap<String, Part>) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let request = lines.next()?.ok()?;
        while !lines.next()?.ok()?.is_empty() {}
        let path = request.split(' ').nth(1)?.split('?').next()?;
        let Some(Part { media_type, bytes, .. }) = parts.get(path) else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").ok()?;
            continue;
        };
        let mut head =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncontent-type: {media_type}\r\n", bytes.len());
        if path.contains("/manifests/") {
            head.push_str(&format!("docker-content-digest: {}\r\n", Digest::of(bytes)));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(bytes).ok()?;
    }
}
