//! Master files as operators write them: refused, or printed as one that reads back the same zone,
//! which can be served.

use cfgdns_core::Tree;
use cfgdns_zone::{Name, Source, Zone, load, print};

use super::server::RECORDS;

fn parsed(text: &[u8]) -> Option<Zone> {
    let origin: Name = "z.".parse().expect("a name");
    let source = Source {
        file: "zone",
        text,
        origin: &origin,
    };
    load(&source).ok().map(|loaded| loaded.zone)
}

/// A master file, alone and after a valid one.
pub(crate) fn master_file(data: &[u8]) {
    let head = format!("$TTL 60\n@ SOA ns1 root 7 3600 600 604800 5\n{RECORDS}");
    for text in [data.to_vec(), [head.as_bytes(), data].concat()] {
        let Some(zone) = parsed(&text) else {
            continue;
        };
        let printed = print(&zone);
        let again = parsed(printed.as_bytes()).expect("what is printed is valid");
        assert!(again == zone, "printed as another zone");
        let tree = Tree::build(&zone).expect("a valid zone has an SOA");
        assert!(tree.name_count() >= zone.node_count());
    }
}
