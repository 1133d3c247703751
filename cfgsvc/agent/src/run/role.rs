//! One role: what the decisions of [`Core`] ask for is done here, and what comes of it told back.
//!
//! Invariants
//! - The moment of a question's sending is taken before the question is begun.
//! - What waits (files, hooks, the group, the program) waits in tasks; here nothing waits.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfgsvc_client::{
    Attend, Attended, CallError, Probes, Refusal, RenewState, Start, StepNumbers, Verdict,
    VerdictKind, Verdicts, Yield, sleep_until,
};
use cfgsvc_clock::Moment;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::beside::Checks;
use super::hooks::{self, Hooks, Last, Told as News};
use super::probes::Rows;
use super::program::{Orders, Program};
use super::store::{Looks, Said, Store};
use super::sync::{Counted, Voice};
use super::writer::{self, Page};
use crate::board::{Board, Part};
use crate::group::{ATTEMPT_MAX, AskError, Group};
use crate::role::core::{Core, Effect, Event, HostData, Renewal, Standing, Terms, Told, Written};

/// Events that wait to be taken; who finds no room waits.
const EVENTS_MAX: usize = 64;
/// Wait after the group refused to take this host in: a person must change something.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// Wait before a stream of verdicts that broke is opened again.
const STREAM_PAUSE: Duration = Duration::from_millis(100);
/// Wait before the hook `position` is asked again where the data ends that was served.
const POSITION_PAUSE: Duration = Duration::from_millis(250);
/// Wait before the group is told again that the role is not served any more.
const YIELD_PAUSE: Duration = Duration::from_millis(100);

/// Who this host is, and what it does in the role.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) role: String,
    pub(crate) host: String,
    pub(crate) colo: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) instance: String,
    pub(crate) boot: String,
    /// Empty: the hooks serve.
    pub(crate) command: Vec<OsString>,
    pub(crate) program_lock: PathBuf,
    pub(crate) hooks: Hooks,
    pub(crate) checks: Checks,
    pub(crate) attempts: StepNumbers,
    /// What this host sees of others: it goes to the group with renewals.
    pub(crate) rows: Arc<Rows>,
    /// What the verdict file said last, without what is about the role now.
    pub(crate) page: Page,
}

/// Takes part in a role until `ending` says true.
pub(crate) async fn run(
    settings: Settings,
    group: Arc<Group>,
    board: Arc<Board>,
    mut ending: watch::Receiver<bool>,
) {
    let (events, mut inbox) = mpsc::channel(EVENTS_MAX);
    let last = Last::default();
    // No other hook of the role runs before what the last agent left is put down.
    let first = Arc::clone(&last).lock_owned().await;
    let mut role = Role::new(settings, (group, board), events, last);
    role.fence(first);
    let mut core = Core::new(role.settings.page.known_epoch, Moment::now());
    let mut event = Event::Tick;
    let mut ends = false;
    loop {
        let effects = core.on(event, Moment::now());
        role.until(core.until());
        role.rests(core.rests());
        for effect in effects {
            if role.act(effect, &core) {
                return;
            }
        }
        let wake = core.next_wake();
        event = tokio::select! {
            Some(event) = inbox.recv() => event,
            asked = ending.wait_for(|ends| *ends), if !ends => {
                ends = true;
                // Without anybody who could ask, it is time to end too.
                drop(asked);
                Event::End
            }
            () = wait(wake) => Event::Tick,
        };
    }
}

async fn wait(wake: Option<Moment>) {
    match wake {
        Some(wake) => sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

struct Role {
    settings: Arc<Settings>,
    group: Arc<Group>,
    board: Arc<Board>,
    events: mpsc::Sender<Event>,
    /// What hooks are told.
    news: watch::Sender<News>,
    last: Last,
    store: Arc<Store>,
    counted: Arc<Counted>,
    /// Nothing of the role is under way here.
    rests: watch::Sender<bool>,
    pages: watch::Sender<(u64, Page)>,
    /// The newest page.
    page: Page,
    stream: Option<AbortHandle>,
    orders: Option<watch::Sender<Orders>>,
    /// Those of the newest lease.
    terms: Arc<Mutex<Attended>>,
    /// It began an epoch with data.
    has_data: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Role {
    fn new(
        settings: Settings,
        (group, board): (Arc<Group>, Arc<Board>),
        events: mpsc::Sender<Event>,
        last: Last,
    ) -> Self {
        let (news, heard) = watch::channel(News::default());
        let (pages, written) = watch::channel((0, settings.page.clone()));
        let mut tasks = JoinSet::new();
        let store = Arc::new(Store::default());
        let (rests, rested) = watch::channel(false);
        let looks = Looks {
            hooks: settings.hooks.clone(),
            store: Arc::clone(&store),
            last: Arc::clone(&last),
            rests: rested,
            board: Arc::clone(&board),
            events: events.clone(),
        };
        tasks.spawn(hooks::tell(looks, heard));
        let path = settings.hooks.file.clone();
        let shown = (Arc::clone(&board), settings.role.clone());
        tasks.spawn(writer::write(path, written, events.clone(), shown));
        Self {
            page: settings.page.clone(),
            settings: Arc::new(settings),
            group,
            board,
            events,
            news,
            last,
            store,
            counted: Arc::default(),
            rests,
            pages,
            stream: None,
            orders: None,
            terms: Arc::default(),
            has_data: Arc::default(),
            tasks,
        }
    }

    /// Fences the host, whatever the last agent left.
    fn fence(&mut self, mut last: OwnedMutexGuard<Option<News>>) {
        let (hooks, board) = (self.settings.hooks.clone(), Arc::clone(&self.board));
        let fenced = News {
            verdict: "fenced",
            epoch: self.settings.page.known_epoch,
            reason: "the agent begins".to_owned(),
            ..News::default()
        };
        self.later(async move {
            let problem = |problem| board.problem(&hooks.role, Part::Fence, problem);
            hooks.until_done("on-fence", &fenced, problem).await;
            *last = Some(fenced);
            Event::NothingLeft
        });
    }

    fn until(&self, until: Option<Moment>) {
        let role = &self.settings.role;
        self.board.change(role, |status| status.until = until);
    }

    fn rests(&self, rests: bool) {
        self.rests.send_if_modified(|last| {
            let changed = *last != rests;
            *last = rests;
            changed
        });
    }

    /// Does it, or has it done; whether all is over.
    fn act(&mut self, effect: Effect, core: &Core) -> bool {
        // Those that are done are let go of.
        while self.tasks.try_join_next().is_some() {}
        match effect {
            Effect::Attend => self.attend(core.known()),
            Effect::Follow { stream, lease } => self.follow(stream, lease),
            Effect::Renew(lease) => self.renew(lease),
            Effect::Begin { lease, epoch } => self.begin(lease, epoch),
            Effect::Write { number, what } => self.write(number, what, core.known()),
            Effect::Run { epoch, until } => self.start(epoch, until),
            Effect::Until(until) => self.order(|orders| orders.until = until),
            Effect::Stop => self.order(|orders| orders.stop = true),
            Effect::Yield {
                lease,
                leave,
                served,
                until,
            } => self.give_up(lease, leave, (served, until)),
            Effect::Done => return true,
        }
        false
    }

    /// Does something that waits, and tells its result.
    fn later(&mut self, work: impl Future<Output = Event> + Send + 'static) {
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let event = work.await;
            // Nobody to tell: the role is left.
            let _ = events.send(event).await;
        });
    }

    fn attend(&mut self, known: i64) {
        self.end_stream();
        let (asker, terms) = (self.asker(), Arc::clone(&self.terms));
        self.later(async move {
            let ticket = asker.store.ticket();
            let Ok(said) = asker.position().await else {
                asker.store.not_asked();
                return Event::NotAsked;
            };
            let data = asker.data(said.as_ref());
            match asker.attend(known, said.clone()).await {
                Ok((sent, attended)) => {
                    asker.store.came(ticket, said);
                    let given = Terms {
                        lease: attended.lease,
                        serve: Duration::from_millis(attended.serve_ms),
                        data,
                    };
                    *terms.lock().unwrap_or_else(PoisonError::into_inner) = attended;
                    Event::Attends { sent, terms: given }
                }
                Err(pause) => {
                    tokio::time::sleep(pause).await;
                    Event::NotAttended
                }
            }
        });
    }

    /// Renews. After silence the next member is asked, and what this one was asked stays open: on
    /// a network that loses packets an answer that is late is the rule, and it is as good by when
    /// it was sent.
    fn renew(&mut self, lease: i64) {
        let (asker, events) = (self.asker(), self.events.clone());
        let limit = Duration::from_millis(self.terms().serve_ms / 6);
        self.tasks.spawn(async move {
            let sent = Moment::now();
            let rows = Arc::clone(&asker.settings.rows);
            let (group, row) = (&asker.group, rows.due(sent));
            let (at, client) = (group.at(), group.client());
            // One attempt of the client lasts as long as this waits.
            let mut asked = pin!(client.renew_roles_within(vec![lease], row, ATTEMPT_MAX * 3));
            let first = group.hear(at, limit, asked.as_mut()).await;
            let late = matches!(first, Err(AskError::Late(_)));
            let first = asker.heard("renew the lease", first);
            // Nobody to tell: the role is left.
            let said = first.map_or(Event::NotRenewed, |answer| {
                renewed(lease, sent, &rows, answer)
            });
            let _ = events.send(said).await;
            // What is not good news by then is asked and told again.
            if late
                && let Ok(Ok(answer)) = tokio::time::timeout(ATTEMPT_MAX, asked).await
                && answer.0.first() == Some(&RenewState::Renewed)
            {
                let _ = events.send(renewed(lease, sent, &rows, answer)).await;
            }
        });
    }

    fn begin(&mut self, lease: i64, epoch: i64) {
        let (asker, events) = (self.asker(), self.events.clone());
        self.later(async move {
            match asker.begin((lease, epoch), &events).await {
                Ok(()) => Event::Begun { lease, epoch },
                Err(Some(refused)) => Event::NotBegun {
                    refused: Some(refused),
                },
                Err(None) => {
                    tokio::time::sleep(STREAM_PAUSE).await;
                    Event::NotBegun { refused: None }
                }
            }
        });
    }

    fn give_up(&mut self, lease: i64, leave: bool, (served, until): (bool, Moment)) {
        let asker = self.asker();
        self.later(async move {
            let told = async {
                let position = if served {
                    asker.last_position().await
                } else {
                    String::new()
                };
                asker.give_up(lease, leave, position).await;
            };
            tokio::select! {
                () = told => Event::Yielded { known: true },
                // The lease ends by itself.
                () = sleep_until(until) => Event::Yielded { known: false },
            }
        });
    }

    fn terms(&self) -> Attended {
        *self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_stream(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
    }

    fn follow(&mut self, stream: u64, lease: i64) {
        self.end_stream();
        let (asker, events) = (self.asker(), self.events.clone());
        let task = async move { asker.follow(stream, lease, events).await };
        self.stream = Some(self.tasks.spawn(task));
    }

    fn write(&mut self, number: u64, what: Written, known: i64) {
        let settings = &self.settings;
        self.page.known_epoch = known;
        let news = match what {
            Written::Serve { epoch, until } => {
                self.page.deadline_nanos = until.nanos();
                News {
                    verdict: "serve",
                    epoch,
                    reason: "holds the epoch, which has begun".to_owned(),
                    ..News::default()
                }
            }
            Written::Not(standing) => {
                self.page.deadline_nanos = 0;
                News {
                    verdict: standing.verdict,
                    epoch: standing.epoch,
                    holder: standing.holder,
                    addresses: standing.addresses,
                    reason: standing.reason,
                }
            }
        };
        let page = &mut self.page;
        page.role.clone_from(&settings.role);
        page.host.clone_from(&settings.host);
        page.boot.clone_from(&settings.boot);
        news.verdict.clone_into(&mut page.verdict);
        page.epoch = news.epoch;
        page.holder.clone_from(&news.holder);
        page.addresses.clone_from(&news.addresses);
        page.reason.clone_from(&news.reason);
        self.pages.send_replace((number, page.clone()));
        self.board.change(&settings.role, |status| {
            status.verdict = news.verdict;
            status.epoch = news.epoch;
            status.holder.clone_from(&news.holder);
            status.addresses.clone_from(&news.addresses);
            status.reason.clone_from(&news.reason);
        });
        self.news.send_if_modified(|last| {
            let changed = *last != news;
            if changed {
                let (role, epoch) = (&settings.role, news.epoch);
                let (verdict, reason) = (news.verdict, &news.reason);
                tracing::info!(role, epoch, verdict, holder = news.holder, reason);
                *last = news;
            }
            changed
        });
    }

    fn start(&mut self, epoch: i64, until: Moment) {
        let settings = &self.settings;
        let told = self.news.borrow().clone();
        debug_assert_eq!((told.verdict, told.epoch), ("serve", epoch));
        let terms = self.terms();
        let voice = Voice {
            settings: Arc::clone(settings),
            group: Arc::clone(&self.group),
            store: Arc::clone(&self.store),
            counted: Arc::clone(&self.counted),
            lease: terms.lease,
        };
        let program = Program {
            command: settings.command.clone(),
            stop: Duration::from_millis(terms.stop_ms),
            lock: settings.program_lock.clone(),
            told,
            hooks: settings.hooks.clone(),
            checks: settings.checks,
            voice: Some(voice),
            board: Arc::clone(&self.board),
        };
        let (orders, heard) = watch::channel(Orders { until, stop: false });
        self.orders = Some(orders);
        let (last, events) = (Arc::clone(&self.last), self.events.clone());
        self.later(async move {
            program.run(heard, last, events).await;
            Event::NothingLeft
        });
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        if let Some(orders) = &self.orders {
            orders.send_modify(change);
        }
    }

    fn asker(&self) -> Asker {
        Asker {
            settings: Arc::clone(&self.settings),
            group: Arc::clone(&self.group),
            board: Arc::clone(&self.board),
            store: Arc::clone(&self.store),
            counted: Arc::clone(&self.counted),
            told: self.news.borrow().clone(),
            has_data: Arc::clone(&self.has_data),
        }
    }
}

/// Asks the group on behalf of a role.
struct Asker {
    settings: Arc<Settings>,
    group: Arc<Group>,
    board: Arc<Board>,
    store: Arc<Store>,
    counted: Arc<Counted>,
    /// For the position hook's environment.
    told: News,
    /// It began an epoch with data.
    has_data: Arc<AtomicBool>,
}

impl Asker {
    /// The answer, if there is one; what is wrong is shown and logged once.
    fn heard<T>(&self, what: &str, answer: Result<T, AskError>) -> Option<T> {
        let (answer, problem) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(format!("cannot {what}: {error}"))),
        };
        self.board
            .problem(&self.settings.role, Part::Group, problem);
        answer
    }

    /// What is in the host's store; or why that is not known, which is shown too.
    async fn position(&self) -> Result<Option<Said>, String> {
        let position = self.store.ask(&self.settings.hooks, &self.told).await;
        let problem = position.as_ref().err().cloned();
        self.board
            .problem(&self.settings.role, Part::Position, problem);
        position
    }

    /// What that says of the host's data.
    fn data(&self, said: Option<&Said>) -> HostData {
        match said {
            None if self.settings.hooks.path("position").is_none() => HostData::NotKept,
            Some(said) if said.has_data() => HostData::Some,
            Some(_) | None => HostData::Empty,
        }
    }

    /// When it was asked, and what the group gave; or how long to wait before asking again.
    async fn attend(&self, known: i64, said: Option<Said>) -> Result<(Moment, Attended), Duration> {
        let settings = &self.settings;
        let has_data = said.is_some();
        let said = said.unwrap_or_default();
        let request = Attend {
            role: settings.role.clone(),
            host: settings.host.clone(),
            colo: settings.colo.clone(),
            addresses: settings.addresses.clone(),
            instance: settings.instance.clone(),
            boot: settings.boot.clone(),
            epoch: known,
            has_data,
            identity: said.identity,
            position: said.position,
            life: said.life,
            attempt: settings.attempts.next(),
            ..Attend::default()
        };
        let sent = Moment::now();
        let asked = self
            .group
            .ask(ATTEMPT_MAX, async |client| client.attend(&request).await)
            .await;
        let refused = asked.as_ref().is_err_and(AskError::is_refusal);
        match self.heard("take part", asked) {
            Some(attended) => Ok((sent, attended)),
            None if refused => Err(REFUSED_PAUSE),
            None => Err(Duration::ZERO),
        }
    }

    /// Whether the start is committed; if the host cannot begin, why.
    async fn begin(
        &self,
        (lease, epoch): (i64, i64),
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Option<String>> {
        let cannot = |why: &dyn fmt::Display| format!("cannot begin epoch {epoch}: {why}");
        let said = self.position().await.map_err(|why| Some(cannot(&why)))?;
        if self.store.is_another(said.as_ref()) {
            // Nobody to tell: the role is left.
            let _ = events.send(Event::SaysAnew).await;
            let why = "the store was opened anew since the host came";
            return Err(Some(cannot(&why)));
        }
        self.has_data.store(said.is_some(), Ordering::Relaxed);
        let said = said.unwrap_or_default();
        let request = Start {
            role: self.settings.role.clone(),
            host: self.settings.host.clone(),
            lease,
            epoch,
            position: said.position,
            attempt: self.settings.attempts.next(),
            identity: said.identity,
            life: said.life,
        };
        let asked = self
            .group
            .ask(ATTEMPT_MAX, async |client| {
                client.start_epoch(&request).await
            })
            .await;
        match asked {
            Err(AskError::Call(CallError::Refused {
                refusal, message, ..
            })) => {
                // Given to another meanwhile: the verdict says so.
                let lost = refusal == Some(Refusal::NotHolder);
                Err((!lost).then(|| cannot(&message)))
            }
            asked => {
                let begun = self.heard("begin the epoch", asked).ok_or(None)?;
                let revision = begun.header.map_or(0, |header| header.revision);
                self.counted.hear((begun.epoch, revision), begun.synced);
                Ok(())
            }
        }
    }

    /// Where the data ends that was served, as soon as that can be said: the next holder must have
    /// as much. Empty without data.
    async fn last_position(&self) -> String {
        loop {
            match self.position().await {
                Ok(Some(said)) => return said.position,
                Ok(None) if !self.has_data.load(Ordering::Relaxed) => return String::new(),
                Ok(None) => {
                    let problem = "hook position says nothing, of data that was served".to_owned();
                    self.board
                        .problem(&self.settings.role, Part::Position, Some(problem));
                }
                Err(_) => {}
            }
            tokio::time::sleep(POSITION_PAUSE).await;
        }
    }

    /// Tells the group that the role is not served any more, until it knows.
    async fn give_up(&self, lease: i64, leave: bool, position: String) {
        let request = Yield {
            role: self.settings.role.clone(),
            host: self.settings.host.clone(),
            lease,
            position,
            leave,
            attempt: self.settings.attempts.next(),
        };
        loop {
            let asked = self
                .group
                .ask(ATTEMPT_MAX, async |client| {
                    client.yield_role(&request).await
                })
                .await;
            let refusal = asked.as_ref().err().and_then(AskError::refusal);
            let over = [
                Refusal::LeaseNotFound,
                Refusal::RequestTooOld,
                Refusal::RoleNotFound,
            ];
            // The lease is not there, or an earlier attempt has done it.
            let over = refusal.is_some_and(|refusal| over.contains(&refusal));
            if over || self.heard("give the role up", asked).is_some() {
                return;
            }
            tokio::time::sleep(YIELD_PAUSE).await;
        }
    }

    /// Hears verdicts, on one stream after the other.
    async fn follow(&self, stream: u64, lease: i64, events: mpsc::Sender<Event>) {
        let settings = &self.settings;
        loop {
            let at = self.group.at();
            let client = self.group.client();
            let opened = client.verdicts(&settings.role, &settings.host, lease);
            let problem = match opened.await {
                Ok(verdicts) => self.hear(verdicts, at, (stream, &events)).await,
                Err(error) => Some(error),
            };
            let problem = problem.map(|error| format!("cannot hear verdicts: {error}"));
            self.board.problem(&settings.role, Part::Verdicts, problem);
            if events.is_closed() {
                return;
            }
            tokio::time::sleep(STREAM_PAUSE).await;
        }
    }

    /// Passes on what is said until the stream breaks, or its member is silent to others: renewals,
    /// and the client's other calls.
    async fn hear(
        &self,
        mut verdicts: Verdicts,
        at: usize,
        (stream, events): (u64, &mpsc::Sender<Event>),
    ) -> Option<CallError> {
        loop {
            let verdict = match tokio::time::timeout(STREAM_PAUSE, verdicts.next()).await {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(error)) => return Some(error),
                Err(_) if self.group.at() != at || verdicts.left_behind() => return None,
                Err(_) => continue,
            };
            self.board
                .problem(&self.settings.role, Part::Verdicts, None);
            if verdict.kind() == VerdictKind::Serve {
                let at = (verdict.epoch, verdict.revision);
                self.counted.hear(at, verdict.synced.clone());
                self.counted.hear_asked(at, verdict.tell_position);
            }
            let says_anew = verdict.say_position.then_some(Event::SaysAnew);
            let told = told(verdict);
            let said = [Some(Event::Told { stream, told }), says_anew];
            for event in said.into_iter().flatten() {
                if events.send(event).await.is_err() {
                    return None;
                }
            }
        }
    }
}

/// What the group says of a lease that it was asked to renew.
fn renewed(
    lease: i64,
    sent: Moment,
    rows: &Rows,
    (states, probes): (Vec<RenewState>, Option<Probes>),
) -> Event {
    rows.given(probes);
    let renewal = match states.first() {
        Some(RenewState::Renewed) => Renewal::Renewed,
        Some(RenewState::Closing) => Renewal::Closing,
        Some(RenewState::Gone) | None => Renewal::Gone,
    };
    Event::Renewed {
        lease,
        sent,
        renewal,
    }
}

fn told(verdict: Verdict) -> Told {
    let kind = verdict.kind();
    if verdict.not_attending {
        return Told::NotAttending;
    }
    let epoch = verdict.epoch;
    if verdict.may_start {
        return Told::MayStart { epoch };
    }
    let verdict_name = match kind {
        VerdictKind::Serve => return Told::Serve { epoch },
        VerdictKind::Standby => "standby",
        VerdictKind::Redirect => "redirect",
        VerdictKind::Rebuild => "rebuild",
        VerdictKind::Fenced => "fenced",
    };
    Told::Other(Standing {
        verdict: verdict_name,
        epoch,
        holder: verdict.holder,
        addresses: verdict.addresses,
        reason: verdict.reason,
    })
}
