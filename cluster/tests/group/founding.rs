//! What a founder does when another founder is not who it was.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::founding::FoundingDesk;
use cluster::identity::DataDirectory;
use cluster::proto::Node;
use cluster::proto::founding_server::FoundingServer;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

fn node(id: u64, name: &str, address: &str, incarnation: &str) -> Node {
    Node {
        id,
        name: name.to_owned(),
        peer_address: address.to_owned(),
        incarnation: incarnation.to_owned(),
        ..Node::default()
    }
}

fn open(root: &Path, name: &str) -> DataDirectory {
    DataDirectory::open(&root.join(name), name, false).expect("a fresh directory")
}

fn desk(directory: DataDirectory, founders: &BTreeMap<String, String>) -> FoundingDesk {
    let directory = Arc::new(Mutex::new(directory));
    FoundingDesk::new(directory, founders.clone(), String::new(), Vec::new())
}

#[tokio::test]
async fn founder_that_lost_its_disk_meanwhile_holds_up_nobody() {
    let root = tempfile::tempdir().expect("temp dir");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let n2_address = listener.local_addr().expect("address").to_string();
    let founders = BTreeMap::from([
        ("n1".to_owned(), "127.0.0.1:1".to_owned()),
        ("n2".to_owned(), n2_address.clone()),
    ]);
    let n2 = Arc::new(desk(open(root.path(), "n2"), &founders));
    let server = Server::builder()
        .add_service(FoundingServer::new(n2))
        .serve_with_incoming(TcpIncoming::from(listener));
    let server = tokio::spawn(server);

    let mut n1 = open(root.path(), "n1");
    let incarnation = n1.identity().incarnation.clone();
    // n1 has decided with what n2 said before its disk was emptied.
    let decided = vec![
        node(1, "n1", "127.0.0.1:1", &incarnation),
        node(2, "n2", &n2_address, "what n2 was"),
    ];
    n1.bind(7, 1, decided).expect("bind");
    let n1 = desk(n1, &founders);
    let found = tokio::time::timeout(Duration::from_secs(30), n1.found()).await;
    found.expect("it does not wait for n2").expect("n1 goes on");
    server.abort();
}
