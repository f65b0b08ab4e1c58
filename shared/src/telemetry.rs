//! Sets up the log.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error(
        "`log` must be a level (error, warn, info, debug) or directives such as `info,data_plane=debug`"
    )]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The thread that writes it does not start.
    #[error("starting the thread that writes the log")]
    Thread(#[source] io::Error),
    /// Something else in this process already logs.
    #[error("setting up the log")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
}

/// An error with its causes, for the one place that logs it: `reading ca.pem: permission denied`.
pub fn chain(error: &dyn Error) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        write!(f, "{error}")?;
        let mut cause = error.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    })
}

/// Lines that may wait for whoever reads the log.
const WAITING: usize = 8192;

/// How long a process that ends waits for them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the writer of the log is to do.
enum Work {
    Write(Vec<u8>),
    /// Say when all before it is written.
    Tell(SyncSender<()>),
}

/// Passes lines to a thread that writes them: a reader who does not read stops nothing but the log.
#[derive(Clone)]
struct Lines {
    sender: SyncSender<Work>,
    lost: Arc<AtomicU64>,
}

impl Lines {
    /// Starts the thread, which writes to `output`.
    fn to(mut output: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let missing = Arc::clone(&lost);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                while let Ok(work) = receiver.recv() {
                    // There is nowhere to say that nothing can be said.
                    match work {
                        Work::Write(line) => _ = output.write_all(&line),
                        Work::Tell(done) => _ = done.send(()),
                    }
                    let lost = missing.swap(0, Ordering::Relaxed);
                    if lost > 0 {
                        _ = writeln!(output, "{lost} lines of the log are lost: nobody read them");
                    }
                }
            })?;
        Ok(Self { sender, lost })
    }

    /// Waits for what was written before.
    fn finish(&self) {
        let (done, written) = sync_channel(1);
        if self.sender.try_send(Work::Tell(done)).is_ok() {
            // Whoever does not read by then does not get it.
            let _ = written.recv_timeout(LAST_WORDS);
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Work::Write(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of this process, once it has one.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Waits a second at most until what was logged is written: for the end of a process.
pub fn finish() {
    if let Some(lines) = LINES.get() {
        lines.finish();
    }
}

/// How often a trouble that lasts is told of.
const REMINDER: Duration = Duration::from_hours(1);

/// A trouble that may last: it is told when it begins, when it is another, and once an hour.
#[derive(Debug, Default)]
pub struct Trouble {
    /// What was told last, and when.
    told: Option<(String, Instant)>,
}

impl Trouble {
    /// Whether it is to be told, at `clock`, that `what` is the trouble.
    pub fn is_news(&mut self, what: &str, clock: Instant) -> bool {
        let known = self.told.as_ref();
        if known.is_some_and(|(text, at)| text == what && clock.duration_since(*at) < REMINDER) {
            return false;
        }
        self.told = Some((what.to_owned(), clock));
        true
    }

    /// It is over: the same would be news.
    pub fn ends(&mut self) {
        self.told = None;
    }
}

/// Checks a filter without using it.
pub fn check(filter: &str) -> Result<(), TelemetryError> {
    EnvFilter::try_new(filter)?;
    Ok(())
}

/// What a log is filtered by while the process runs: what changes it, what it was started with, and the level
/// that was asked for last.
struct Filtering {
    handle: reload::Handle<EnvFilter, Registry>,
    started: String,
    level: Mutex<Level>,
}

/// The level that was asked for, and how many were before it.
struct Level {
    name: String,
    change: LevelNumber,
}

/// One of the changes of the level.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LevelNumber(u64);

static FILTERING: OnceLock<Filtering> = OnceLock::new();

/// Kong's levels, each with what it is here. The two that are less than an error say no more than that.
const LEVELS: [(&str, &str); 8] = [
    ("debug", "debug"),
    ("info", "info"),
    ("notice", "info"),
    ("warn", "warn"),
    ("error", "error"),
    ("crit", "error"),
    ("alert", "error"),
    ("emerg", "error"),
];

/// The level of this process's log, or the filter that it was started with.
pub fn level() -> String {
    FILTERING.get().map_or_else(
        || "off".to_owned(),
        |filtering| {
            let level = filtering.level.lock();
            let level = level.unwrap_or_else(PoisonError::into_inner);
            level.name.clone()
        },
    )
}

/// What a change of the level comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LevelChange {
    /// It is in effect, and may be taken back by this number.
    Changed(LevelNumber),
    /// It was so before.
    Already,
    /// There is no such level.
    Unknown,
    /// This process does not log.
    Off,
}

/// Changes the level of this process's log, by Kong's name for it.
pub fn set_level(name: &str) -> LevelChange {
    let Some((_, filter)) = LEVELS.iter().find(|(known, _)| *known == name) else {
        return LevelChange::Unknown;
    };
    let Some(filtering) = FILTERING.get() else {
        return LevelChange::Off;
    };
    let mut level = filtering
        .level
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if level.name == name {
        return LevelChange::Already;
    }
    let reloaded = filter_of(filter).map(|filter| filtering.handle.reload(filter));
    if !matches!(reloaded, Ok(Ok(()))) {
        return LevelChange::Off;
    }
    *level = level.next(name);
    LevelChange::Changed(level.change)
}

/// Goes back to what the log was started with, unless the level was changed again after `change`.
pub fn reset_level(change: LevelNumber) {
    let Some(filtering) = FILTERING.get() else {
        return;
    };
    let mut level = filtering
        .level
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if level.change != change {
        return;
    }
    if let Ok(filter) = filter_of(&filtering.started)
        && filtering.handle.reload(filter).is_ok()
    {
        *level = level.next(&filtering.started);
    }
}

impl Level {
    fn next(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            change: LevelNumber(self.change.0 + 1),
        }
    }
}

/// The filter that `filter` names. A client can make the TLS library warn with each handshake, of what nobody can
/// act on, such as an address for a server's name: that is left out unless `filter` asks for the library.
fn filter_of(filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("rustls=error,{filter}"))
}

/// The values of a readable line: `said name=value`.
fn fields() -> impl for<'a> FormatFields<'a> + 'static {
    debug_fn(write_field).delimited(" ")
}

/// Writes a value. The library leaves control characters in it where it is shown as it is, and not as a quoted text.
fn write_field(line: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => {}
        // Where in a program something of the `log` crate was said.
        name if name.starts_with("log.") => return Ok(()),
        name => write!(line, "{}=", name.trim_start_matches("r#"))?,
    }
    let text = format!("{value:?}");
    for part in text.split_inclusive(char::is_control) {
        let control = part.chars().next_back().filter(|last| last.is_control());
        match control {
            Some(control) => {
                let before = part.trim_end_matches(control);
                write!(line, "{before}{}", control.escape_default())?;
            }
            None => line.write_str(part)?,
        }
    }
    Ok(())
}

/// Sends this process's log to standard error, filtered by `filter`, a list of `target=level`.
///
/// Control characters in values are escaped in both formats, so that no value can forge a line.
pub fn start(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let (filtered, handle) = reload::Layer::new(filter_of(filter)?);
    let registry = tracing_subscriber::registry().with(filtered);
    let lines = Lines::to(io::stderr()).map_err(TelemetryError::Thread)?;
    let writer = {
        let lines = lines.clone();
        move || lines.clone()
    };
    match format {
        LogFormat::Text => {
            let layer = tracing_subscriber::fmt::layer()
                .fmt_fields(fields())
                .with_writer(writer)
                .with_ansi(io::stderr().is_terminal());
            registry.with(layer).try_init()?;
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(writer);
            registry.with(layer).try_init()?;
        }
    }
    // A second log in one process fails above, so this one is the first.
    let _ = LINES.set(lines);
    let _ = FILTERING.set(Filtering {
        handle,
        started: filter.to_owned(),
        level: Mutex::new(Level {
            name: filter.to_owned(),
            change: LevelNumber(0),
        }),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Something that is not read from until it is told to.
    struct Pipe(std::sync::mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Open for good once the other end is gone.
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written can be looked at.
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn rule_129_no_value_begins_a_line_or_commands_a_terminal() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&written);
        let log = tracing_subscriber::fmt()
            .fmt_fields(fields())
            .with_writer(move || Kept(Arc::clone(&kept)))
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(log, || {
            let error = io::Error::other("d\u{1b}[2J\u{85}");
            let shown = fmt::from_fn(|f| f.write_str("a\n WARN forged\r\n"));
            let text = "b\r\nc";
            tracing::warn!(%shown, text, error = %chain(&error), number = 7, "said {}", "\ne\t");
        });
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let expected = " WARN said \\ne\\t shown=a\\n WARN forged\\r\\n text=\"b\\r\\nc\" \
                        error=d\\u{1b}[2J\\u{85} number=7\n";
        assert_eq!(written, expected);
    }

    #[test]
    fn a_reader_who_does_not_read_stops_nobody_who_has_something_to_say() {
        let (read, reading) = std::sync::mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut lines = Lines::to(Pipe(reading, Arc::clone(&written))).unwrap();
        for number in 0..2 * WAITING {
            lines.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        assert!(lines.lost.load(Ordering::Relaxed) > 0);
        drop(read);
        while lines
            .sender
            .try_send(Work::Write(b"last\n".to_vec()))
            .is_err()
        {
            std::thread::yield_now();
        }
        lines.finish();
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(written.starts_with("0\n"), "{written}");
        for line in ["lines of the log are lost", "last\n"] {
            assert!(written.contains(line), "{line}");
        }
    }

    #[test]
    fn a_trouble_that_lasts_is_told_once_an_hour_and_another_at_once() {
        let start = crate::clock::monotonic();
        let mut trouble = Trouble::default();
        for (what, seconds, expected) in [
            ("a", 0, true),
            ("a", 2, false),
            ("b", 4, true),
            ("b", 3603, false),
            ("b", 3604, true),
            ("b", 3606, false),
            ("a", 3608, true),
        ] {
            let clock = start + Duration::from_secs(seconds);
            assert_eq!(trouble.is_news(what, clock), expected, "{what} {seconds}");
        }
        trouble.ends();
        assert!(trouble.is_news("a", start + Duration::from_secs(3610)));
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = crate::tls::read_key(Path::new("/nowhere.key")).unwrap_err();
        let told = chain(&error).to_string();
        assert!(
            told.starts_with("reading /nowhere.key: No such file"),
            "{told}"
        );
    }

    #[test]
    fn a_bad_filter_is_refused() {
        assert!(check("info,control_plane=debug").is_ok());
        assert!(check("control_plane=loud").is_err());
    }

    #[test]
    fn rule_129_no_library_tells_what_requests_bear() {
        use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
        // Fields of a head, say, as HTTP/2's does at `trace`, whatever the filter is.
        assert_eq!(STATIC_MAX_LEVEL, LevelFilter::DEBUG);
    }

    #[test]
    fn the_tls_library_tells_errors_only_unless_it_is_asked_for() {
        let filter = |text: &str| filter_of(text).unwrap().to_string();
        assert!(filter("info").contains("rustls=error"));
        let asked = filter("info,rustls=debug");
        assert!(
            asked.contains("rustls=debug") && !asked.contains("rustls=error"),
            "{asked}"
        );
    }
}
