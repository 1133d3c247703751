//! Two replicas of the state machine over stores in memory, which must stay the same to the byte.
//!
//! The second one commits what it applied only now and then and is loaded from its store before
//! each command: neither how entries are batched nor what is cached may matter.

use std::io;

use bytes::Bytes;
use cfgsvc_core::check::check;
use cfgsvc_core::history::{self, HistoryQuery};
use cfgsvc_core::{Applied, Machine, export, read, txn_readonly};
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::seed::Step;
use cfgsvc_proto::state::{Command, Reply, Seed};
use cluster_core::store::{Batch, MemoryState, Overlay, StateEngine};
use prost::Message;

use crate::draw::Draw;

/// Commands of which the second replica makes one batch.
const BATCH_COMMANDS: usize = 5;

/// The two.
pub(crate) struct Replicas {
    store: MemoryState,
    machine: Machine,
    twin: MemoryState,
    pending: Vec<(Bytes, Applied)>,
    /// What the store holds came from a file: it is well formed, and no more is known of it.
    restored: bool,
}

impl Replicas {
    /// Both empty.
    pub(crate) fn new() -> Self {
        let store = MemoryState::default();
        let machine = Machine::load(&store.entries()).expect("an empty store");
        Self {
            store,
            machine,
            twin: MemoryState::default(),
            pending: Vec::new(),
            restored: false,
        }
    }

    /// Both after `commands`.
    pub(crate) fn after(commands: impl IntoIterator<Item = Command>) -> Self {
        let mut replicas = Self::new();
        for command in commands {
            let applied = replicas.apply(command.encode_to_vec().into());
            applied.expect("a known command");
        }
        replicas
    }

    /// The store of the first one.
    pub(crate) fn store(&self) -> &MemoryState {
        &self.store
    }

    /// Applies a command to both and checks what must hold; the error is the machine's.
    pub(crate) fn apply(&mut self, command: Bytes) -> io::Result<Reply> {
        let before = self.store.entries();
        let revision = self.machine.revision();
        let mut state = Overlay::new(&before);
        let applied = self.machine.apply(&mut state, command.clone())?;
        self.store.commit(state.into_batch())?;
        let reply = Reply::decode(applied.reply.clone()).expect("the machine's own reply");
        self.note_restore(&command, &reply);
        if !self.restored {
            let after = self.store.entries();
            check(&after).unwrap_or_else(|wrong| panic!("{wrong}, after {command:?}"));
            let made = i64::try_from(applied.events.len()).expect("few events");
            let jumped = self.machine.restore_in_progress().is_some();
            assert!(jumped || self.machine.revision() == revision + made);
        }
        self.pending.push((command, applied));
        if self.pending.len() >= BATCH_COMMANDS {
            self.compare();
        }
        Ok(reply)
    }

    fn note_restore(&mut self, command: &Bytes, reply: &Reply) {
        if let Some(Outcome::Seed(_)) = reply.result
            && let Ok(Command {
                op: Some(Op::Seed(Seed { step, .. })),
                ..
            }) = Command::decode(command.clone())
        {
            self.restored |= step == i32::from(Step::Finish);
        }
    }

    /// Whether what was restored last is as if commands had made it. If so, it has to stay so.
    pub(crate) fn is_sound(&mut self) -> bool {
        self.restored = check(&self.store.entries()).is_err();
        !self.restored
    }

    /// Brings the second one forward, as one batch, and compares.
    pub(crate) fn compare(&mut self) {
        let base = self.twin.entries();
        let mut state = Overlay::new(&base);
        for (command, expected) in self.pending.drain(..) {
            let mut machine = Machine::load(&state).expect("its own store");
            let applied = machine.apply(&mut state, command);
            assert_eq!(applied.expect("the other could"), expected);
        }
        let batch: Batch = state.into_batch();
        self.twin.commit(batch).expect("memory does not fail");
        assert_eq!(self.twin.entries(), self.store.entries());
    }

    /// Reads in every way there is; what cannot be read is refused, never an error.
    pub(crate) fn look(&self, draw: &mut Draw<'_>) {
        let entries = self.store.entries();
        let request = draw.range();
        let whole = read::range(&entries, &request).expect("a store of our own");
        let page = read::range_page(&entries, &request, 64).expect("a store of our own");
        assert!(whole.is_ok() || page.is_err() || request.sort_order != 0);
        let txn = draw.txn(1);
        let _ = txn_readonly(&entries, &txn).expect("a store of our own");
        let query = HistoryQuery {
            from: draw.signed(30),
            to: draw.signed(40),
            max_events: 8,
            max_bytes: 1 << 16,
            previous: draw.flag(),
        };
        let _ = history::history_since(&entries, &query).expect("a store of our own");
        let key = draw.key();
        history::key_history(&entries, &key, draw.signed(30), 8, 1 << 16).expect("its own store");
        read::lease_keys(&entries, draw.lease()).expect("a store of our own");
        read::leases(&entries).expect("a store of our own");
        let _ = export::records(&entries, &mut |_| Ok(())).expect("a store of our own");
    }
}
