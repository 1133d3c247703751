//! The bytes on disk, in the log and in snapshot files: an older version wrote them, and every
//! later one must read them. A change here is a change of the format, never a fix of a test.

use std::fmt::Write;

use cfgsvc_core::Machine;
use cfgsvc_core::refusal::{CODES, refusal_text};
use cfgsvc_core::tables::Table;
use cfgsvc_proto::etcd::request_op::Request;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::role_command::Step as RoleStep;
use cfgsvc_proto::state::seed::Step;
use cfgsvc_proto::state::{Command, LeaseExpire, Record, RoleCommand, Scrub, Seed, Start};
use cluster_core::store::Overlay;
use expect_test::expect;
use prost::Message;

use crate::shown::*;

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

/// One of each operation, by its field number.
fn commands() -> Vec<Op> {
    let Request::RequestPut(put) = leased("a", "1", 7) else {
        unreachable!("it is a put")
    };
    let Request::RequestDeleteRange(delete) = delete("a", "b") else {
        unreachable!("it is a delete")
    };
    vec![
        Op::Put(put),
        Op::DeleteRange(delete),
        Op::Txn(txn_request(vec![], vec![get("a", "")], vec![])),
        compact(3),
        grant(7, 60),
        revoke(7),
        Op::LeaseExpire(LeaseExpire {
            ids: vec![7, 8],
            term: 3,
        }),
        Op::Scrub(Scrub { limit: 9 }),
        Op::Seed(Seed {
            step: Step::Finish.into(),
            number: 4,
            records: vec![Record {
                key: bytes("k"),
                value: bytes("v"),
            }],
            restore_id: 5,
            advance: 6,
        }),
        Op::Role(RoleCommand {
            role: "r".to_owned(),
            step: Some(RoleStep::Start(Start {
                host: "h".to_owned(),
                lease: 7,
                epoch: 8,
                position: "9".to_owned(),
                attempt: 10,
                identity: String::new(),
                life: String::new(),
            })),
        }),
    ]
}

#[test]
fn commands_in_the_log_keep_their_bytes() {
    let encoded = commands().into_iter().map(|op| {
        let command = Command {
            at_ms: 1,
            author: "A".to_owned(),
            reason: "R".to_owned(),
            session: 7,
            seq: 2,
            ack: 1,
            op: Some(op),
        };
        hex(&command.encode_to_vec())
    });
    let shown: Vec<String> = encoded.collect();
    expect![[r#"
        08011201411a015220072802300152080a01611201311807
        08011201411a01522007280230015a080a01611201621801
        08011201411a0152200728023001620712050a030a0161
        08011201411a01522007280230016a020803
        08011201411a01522007280230017204083c1007
        08011201411a01522007280230017a020807
        08011201411a01522007280230018201060a0207081003
        08011201411a01522007280230018a01020809
        08011201411a0152200728023001920110080210041a060a016b12017620052806
        08011201411a01522007280230019a01110a01721a0c0a016810071808220139280a"#]]
    .assert_eq(&shown.join("\n"));
}

/// One line for each record, in the order of tables in a snapshot.
#[test]
fn records_of_every_table_keep_their_bytes() {
    let mut store = Store::new()
        .op(grant(7, 60))
        .given(vec![put("a\0", "1"), put("b", "2")])
        .op(compact(3))
        .given(vec![delete("a\0", "")]);
    let mut ops = commands();
    let command = Command {
        at_ms: 1_600_000_000_000,
        author: "A".to_owned(),
        reason: "R".to_owned(),
        session: 7,
        seq: 2,
        ack: 1,
        op: Some(ops.swap_remove(0)),
    };
    store.apply(&command);
    let entries = store.state.entries();
    let mut shown = String::new();
    for table in Table::ALL {
        for (key, value) in entries
            .iter()
            .filter(|(key, _)| Table::of(key) == Some(table))
        {
            writeln!(shown, "{} = {}", key.escape_ascii(), hex(value)).expect("a string takes all");
        }
    }
    assert_eq!(shown.lines().count(), entries.len());
    expect![[r#"
        m = 08051003208080babbc82e
        r\x00\x00\x00\x00\x00\x00\x00\x02 = nothing
        r\x00\x00\x00\x00\x00\x00\x00\x03 = nothing
        r\x00\x00\x00\x00\x00\x00\x00\x04 = nothing
        r\x00\x00\x00\x00\x00\x00\x00\x05 = 088080babbc82e1201411a0152
        l\x00\x00\x00\x00\x00\x00\x00\x07 = 083c
        k\x00\x00\x00\x00\x00\x00\x00\x07a = nothing
        s\x00\x00\x00\x00\x00\x00\x00\x07 = 080110011808
        p\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x02 = 080552040a021805
        ca = 08051005180120072a0131
        cb = 0803100318012a0132
        oa\x00\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02 = 0a090802100218012a01311004
        h\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00 = 120261001a090802100218012a0131
        h\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00 = 1201621a090803100318012a0132
        h\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00 = 0801120261002002
        h\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00 = 1201611a0b08051005180120072a0131"#]]
    .assert_eq(shown.trim_end());
}

#[test]
fn refusals_in_kept_answers_keep_their_numbers() {
    let shown: Vec<String> = CODES
        .into_iter()
        .map(|code| format!("{} {}", code as i32, refusal_text(code)))
        .collect();
    expect![[r#"
        0 etcdserver: refused for a reason this version does not know
        1 etcdserver: key is not provided
        2 etcdserver: key not found
        3 etcdserver: value is provided
        4 etcdserver: lease is provided
        5 etcdserver: too many operations in txn request
        6 etcdserver: duplicate key given in txn request
        7 etcdserver: mvcc: required revision has been compacted
        8 etcdserver: mvcc: required revision is a future revision
        9 etcdserver: requested lease not found
        10 etcdserver: lease already exists
        11 etcdserver: too large lease TTL
        12 etcdserver: mvcc: database space exceeded
        20 etcdserver: session not found
        21 etcdserver: request id is too old, its answer is not kept
        22 etcdserver: too many unacknowledged requests in session
        30 etcdserver: store is not empty
        31 etcdserver: restore in progress
        32 etcdserver: step does not belong to the restore in progress
        33 etcdserver: invalid command
        34 etcdserver: invalid sort option
        35 etcdserver: request is too large
        40 cfgsvc: invalid object
        41 cfgsvc: key is reserved
        42 cfgsvc: role not found
        43 cfgsvc: another agent attends
        44 cfgsvc: role is not granted so
        45 cfgsvc: behind the last holder
        46 cfgsvc: object is in use
        47 cfgsvc: lease belongs to a role
        48 cfgsvc: epoch has changed
        49 cfgsvc: nobody can take the role so"#]]
    .assert_eq(&shown.join("\n"));
}

/// Members that know the operation carry it out: one that refuses it would part from them.
#[test]
fn operation_of_a_later_version_stops_the_member() {
    let later = [
        Command::default().encode_to_vec(),
        // Field 999 of a command: a message of one byte.
        [Command::default().encode_to_vec(), vec![0xba, 0x3e, 1, 0]].concat(),
        Command {
            op: Some(Op::Seed(Seed {
                step: 99,
                ..Seed::default()
            })),
            ..Command::default()
        }
        .encode_to_vec(),
    ];
    let base = Store::new().state.entries();
    let shown = later.map(|command| {
        let mut machine = Machine::load(&base).expect("load");
        let mut overlay = Overlay::new(&base);
        let error = machine.apply(&mut overlay, command.into());
        assert_eq!(overlay.pending(), 0);
        error.expect_err("a later version wrote it").to_string()
    });
    expect![[r#"
        the log holds an operation that this version does not know:
          start this member with the newest version that a member has run
        the log holds an operation that this version does not know:
          start this member with the newest version that a member has run
        the log holds a restore step 99 that this version does not know:
          start this member with the newest version that a member has run"#]]
    .assert_eq(&shown.join("\n").replace(": ", ":\n  "));
}
