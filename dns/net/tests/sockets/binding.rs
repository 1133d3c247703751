//! Taking addresses, and giving them back.

use std::error::Error as _;
use std::net::UdpSocket;
use std::sync::Arc;

use cfgdns_net::{BindError, Carrier, Server, Shared};

use crate::client::{Connection, ask, www};
use crate::{Running, fresh, listen};

fn refusal(addresses: &[&str]) -> BindError {
    let shared = Arc::new(Shared::new(fresh()));
    let refused = Server::bind(&listen(addresses), &shared).expect_err("it cannot");
    assert_eq!(Arc::strong_count(&shared), 1, "no thread is left");
    refused
}

#[test]
fn port_of_a_server_that_ended_can_be_had_at_once() {
    let mut address = "127.0.0.1:0".to_owned();
    for _ in 0..5 {
        let running = Running::new(&listen(&[&address]));
        address = running.address().to_string();
        assert_eq!(ask(running.address(), &www(1)).id, 1);
        // The server closes first, so the connection lingers at its port.
        let mut connection = Connection::open(running.address());
        assert_eq!(connection.ask(&www(2)).id, 2);
        running.shutdown();
        connection.ends();
    }
}

#[test]
fn second_server_at_an_address_is_refused_and_takes_no_queries() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let address = running.address();
    let refused = refusal(&["127.0.0.2:0", &address.to_string()]);
    let text = refused.to_string();
    let port = address.port();
    assert!(
        text.starts_with(&format!(
            "cannot listen on TCP {address}: another program has the port"
        )),
        "{text}"
    );
    assert!(
        text.contains(&format!("ss -lnptu 'sport = :{port}'")),
        "{text}"
    );
    assert!(refused.source().is_some());
    for id in 0..50 {
        assert_eq!(ask(address, &www(id)).id, id);
    }
    running.shutdown();
}

#[test]
fn port_that_another_program_has_for_udp_is_refused() {
    let other = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("bound").to_string();
    let BindError::Address { carrier, .. } = refusal(&[&address]) else {
        panic!("the address is the reason");
    };
    // Somebody else's test may have the port for TCP by chance.
    assert!([Carrier::Udp, Carrier::Tcp].contains(&carrier));
}

#[test]
fn address_of_another_machine_is_refused() {
    let text = refusal(&["192.0.2.1:0"]).to_string();
    let expected = "cannot listen on TCP 192.0.2.1:0: this machine does not have 192.0.2.1: \
                    `ip address` shows what it has";
    assert_eq!(text, expected);
}

#[test]
fn no_address_is_refused() {
    let text = refusal(&[]).to_string();
    assert_eq!(text, "there is no address to listen on: give at least one");
}

#[test]
fn server_that_is_dropped_ends() {
    let shared = Arc::new(Shared::new(fresh()));
    let server = Server::bind(&listen(&["127.0.0.1:0"]), &shared).expect("bound");
    let mut connection = Connection::open(server.addresses()[0]);
    drop(server);
    connection.ends();
    assert_eq!(Arc::strong_count(&shared), 1);
}
