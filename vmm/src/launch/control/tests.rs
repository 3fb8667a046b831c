use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;

struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(path: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(path).unwrap()))
    }

    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }
}

fn round(server: &mut ControlServer) -> Vec<(ClientId, Request)> {
    let mut set = PollSet::default();
    server.watch(&mut set);
    set.wait(Some(Duration::from_millis(100))).unwrap();
    server.step(&set)
}

#[test]
fn requests_are_taken_in_order_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut server = ControlServer::new(&path).unwrap();
    let mut one = Client::connect(&path);
    let mut two = Client::connect(&path);
    round(&mut server);
    round(&mut server);
    one.say("{\"command\":\"pause\"}\n{\"command\":\"sta");
    let first = round(&mut server);
    assert!(matches!(first[..], [(_, Request::Pause)]));
    one.say("tus\"}\n");
    let second = round(&mut server);
    assert_eq!(second, [(first[0].0, Request::Status)]);
    two.say("{\"command\":\"stop\",\"timeout_ms\":5}\n");
    let third = round(&mut server);
    assert!(matches!(third[..], [(_, Request::Stop { timeout_ms: 5 })]));
    assert_ne!(third[0].0, first[0].0);

    server.reply(first[0].0, &Reply::Ok);
    assert_eq!(one.hear(), "{\"reply\":\"ok\"}\n");
}

#[test]
fn what_is_no_request_is_told_so_and_hurts_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut server = ControlServer::new(&path).unwrap();
    let mut client = Client::connect(&path);
    round(&mut server);
    client.say("hello\n{\"command\":\"fly\"}\n{\"command\":\"kill\"}\n");
    assert!(matches!(round(&mut server)[..], [(_, Request::Kill)]));
    assert!(client.hear().contains("\"error\""));
    assert!(client.hear().contains("fly"));
}

#[test]
fn an_endless_line_ends_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut server = ControlServer::new(&path).unwrap();
    let mut client = Client::connect(&path);
    let writer = std::thread::spawn(move || {
        let chunk = [b'x'; 65536];
        while client.0.get_mut().write_all(&chunk).is_ok() {}
    });
    while server.clients.is_empty() {
        round(&mut server);
    }
    while !server.clients.is_empty() {
        assert!(round(&mut server).is_empty());
    }
    writer.join().unwrap();
}

#[test]
fn an_answer_to_a_client_that_left_goes_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut server = ControlServer::new(&path).unwrap();
    let mut client = Client::connect(&path);
    round(&mut server);
    client.say("{\"command\":\"status\"}\n");
    let (id, _) = round(&mut server)[0];
    drop(client);
    round(&mut server);
    server.reply(id, &Reply::Ok);
    assert!(server.clients.is_empty());
}
