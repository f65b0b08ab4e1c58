//! Reads the settings of a process: command line over environment over a TOML file over defaults.
//!
//! A setting is defined once, as an argument of a `clap` struct: its name, its default and its text.
//! Its variable is named after it, and a key of the file takes the place of its default, so that all
//! three ways share one parser and one error text. What Kong calls otherwise has that name as an alias, and variables
//! may begin as Kong's do: what runs a Kong runs a plane as well.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Id};

/// Arguments of a program that are no settings, and thus no keys of its file.
const NOT_IN_FILE: [&str; 4] = ["config", "check", "help", "version"];

/// How the base64 of a PEM file begins.
const BASE64_OF_PEM: &str = "LS0tLS1CRUdJ";

/// Bytes of a path, and of one name in it, that no file goes beyond.
const MOST_OF_A_PATH: usize = 4095;
const MOST_OF_A_NAME: usize = 255;

/// What `--help` of a plane says below its settings.
pub const AFTER_HELP: &str = "Each setting is a command-line option, an environment variable and, as `snake_case`, a key of the \
TOML file; the first of these that is there wins. A port of 0 lets the system choose.";

/// Parses `arguments` (the first is the program's name), the environment, and the file that the
/// argument `config` names, if any.
///
/// # Errors
///
/// One that says which setting is wrong and why; also, as `clap` does it, the text of `--help`.
pub fn load<T: CommandFactory + FromArgMatches>(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<T, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let matches = command::<T>()
        .ignore_errors(true)
        .try_get_matches_from(&arguments)?;
    // A number below zero is the value of its setting, which the error then names.
    let mut command = command::<T>().mut_args(|argument| {
        let takes_values = argument.get_action().takes_values();
        argument.allow_negative_numbers(takes_values)
    });
    let named = |matches: &ArgMatches| matches.try_get_one("config").ok().flatten().cloned();
    let by_command = || matches.subcommand().and_then(|(_, of_it)| named(of_it));
    let file: Option<PathBuf> = named(&matches).or_else(by_command);
    if let Some(file) = file {
        command = with_file(command, &file)?;
    }
    let matches = match command.try_get_matches_from_mut(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let setting = refused_key(&error).map(str::to_owned);
            let unseen = setting.map(|setting| holds_a_text(&mut command, &setting));
            return Err(unseen.unwrap_or(error));
        }
    };
    if let Some(setting) = holding_a_text(&command, &matches) {
        return Err(holds_a_text(&mut command, &setting));
    }
    T::from_arg_matches(&matches)
}

/// The refusal of what `setting` holds, which it does not show.
fn holds_a_text(command: &mut Command, setting: &str) -> clap::Error {
    let message = format!(
        "{setting} holds the text of a certificate or a key, or what else is no file's name: write it to a file, and \
         give the name of that to the setting for it"
    );
    command.error(ErrorKind::ValueValidation, message)
}

/// The argument that `error` is about, if it would show the text of a certificate or a key.
fn refused_key(error: &clap::Error) -> Option<&str> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    text(ContextKind::InvalidValue).filter(|value| is_pem(value))?;
    text(ContextKind::InvalidArg)
}

/// The setting, or its variable, that holds the text of a file, as Kong takes it where it is to name one. It may be a key, which
/// no error may show.
fn holding_a_text(command: &Command, matches: &ArgMatches) -> Option<String> {
    let takes_values = |argument: &&Arg| argument.get_action().takes_values();
    let found = command
        .get_arguments()
        .filter(takes_values)
        .find(|argument| {
            let is_text = |value: &OsStr| {
                let named = is_file(argument) && is_no_file_name(value);
                named || is_pem(&value.to_string_lossy())
            };
            let mut values = matches.get_raw(argument.get_id().as_str()).into_iter();
            values.any(|mut values| values.any(is_text))
        });
    let Some(argument) = found else {
        let (name, matches) = matches.subcommand()?;
        return holding_a_text(command.find_subcommand(name)?, matches);
    };
    let name = argument.get_id().as_str();
    let by_variable = matches.value_source(name) == Some(ValueSource::EnvVariable);
    let variable = argument.get_env().filter(|_| by_variable);
    Some(variable.map_or_else(
        || format!("`{name}`"),
        |variable| variable.to_string_lossy().into_owned(),
    ))
}

/// Whether it names a file.
fn is_file(argument: &Arg) -> bool {
    argument.get_action().takes_values()
        && argument.get_value_parser().type_id() == TypeId::of::<PathBuf>()
}

/// Whether `value` is PEM, or its base64.
fn is_pem(value: &str) -> bool {
    value.contains("-----BEGIN") || value.trim_start().starts_with(BASE64_OF_PEM)
}

/// Whether `value` is PEM, or its base64, or cannot be a file's name.
fn is_no_file_name(value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    let is_long =
        value.len() > MOST_OF_A_PATH || value.split('/').any(|part| part.len() > MOST_OF_A_NAME);
    is_pem(&value) || is_long || value.chars().any(char::is_control)
}

/// The program's command, each setting with its variable: `WARDGATE_` and the setting's name in capitals. An argument
/// of a subcommand has one if it is a setting of the program, too.
pub fn command<T: CommandFactory>() -> Command {
    let command = T::command();
    let named: Vec<Id> = command.get_arguments().map(Arg::get_id).cloned().collect();
    let of_the_program = move |argument: Arg| {
        if named.contains(argument.get_id()) {
            with_variable(argument)
        } else {
            argument
        }
    };
    command
        .mut_args(with_variable)
        .mut_subcommands(|subcommand| subcommand.mut_args(&of_the_program))
}

fn with_variable(argument: Arg) -> Arg {
    let name = argument.get_id().as_str();
    if name != "config" && NOT_IN_FILE.contains(&name) {
        return argument;
    }
    let own = format!("WARDGATE_{}", shouted(name));
    let is_set = |name: &String| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let kongs = kongs_variables(&argument).into_iter().find(is_set);
    let variable = kongs.filter(|_| !is_set(&own)).unwrap_or(own);
    let argument = if is_boolean(&argument) {
        argument.value_parser(BoolishValueParser::new())
    } else {
        argument
    };
    // `--help` shows the others as they are set.
    let hides = is_file(&argument);
    argument.env(variable).hide_env_values(hides)
}

/// What the file says of it, in the place of its default. The file is this program's: a variable of Kong's, which may be there
/// for another, does not come before it.
fn from_file(argument: Arg, values: Vec<String>) -> Arg {
    let own = format!("WARDGATE_{}", shouted(argument.get_id().as_str()));
    let has_variable = argument.get_env().is_some();
    let argument = argument.default_values(values);
    if has_variable {
        argument.env(own)
    } else {
        argument
    }
}

/// Whether it takes `true` or `false`. Kong says `on` and `off`.
fn is_boolean(argument: &Arg) -> bool {
    argument.get_action().takes_values()
        && argument.get_value_parser().type_id() == TypeId::of::<bool>()
}

/// The variables by which Kong has a setting that it calls the same, or as an alias says.
fn kongs_variables(argument: &Arg) -> Vec<String> {
    let aliases = argument.get_all_aliases().unwrap_or_default();
    let names = std::iter::once(argument.get_id().as_str()).chain(aliases);
    names
        .map(|name| format!("KONG_{}", shouted(name)))
        .collect()
}

/// All variables by which a setting can be set.
fn all_variables(argument: &Arg) -> Vec<String> {
    let mut all = kongs_variables(argument);
    all.push(format!("WARDGATE_{}", shouted(argument.get_id().as_str())));
    all
}

fn shouted(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// Names in the log the variables that begin as settings' do and are none of the program.
pub fn tell_unheeded<T: CommandFactory>() {
    let unheeded = unheeded::<T>(std::env::vars_os().map(|(name, _)| name));
    if !unheeded.is_empty() {
        tracing::warn!(
            variables = unheeded.join(" "),
            "these variables are no settings of this program"
        );
    }
}

/// Those of `variables` that begin as Wardgate's or Kong's do and are no setting of the program.
fn unheeded<T: CommandFactory>(variables: impl IntoIterator<Item = OsString>) -> Vec<String> {
    let command = T::command();
    let known: Vec<String> = command.get_arguments().flat_map(all_variables).collect();
    let mut unheeded: Vec<String> = variables
        .into_iter()
        .filter_map(|variable| variable.into_string().ok())
        .filter(|variable| variable.starts_with("KONG_") || variable.starts_with("WARDGATE_"))
        .filter(|variable| !known.contains(variable))
        .collect();
    unheeded.sort();
    unheeded
}

/// The defaults alone: no file, no environment.
pub fn defaults<T: Args>() -> T {
    let matches = T::augment_args(Command::new("settings"))
        .try_get_matches_from(["settings"])
        .expect("every setting has a default or is optional");
    T::from_arg_matches(&matches).expect("the defaults are valid")
}

/// Puts the keys of `file` in the place of defaults, also of the same arguments of subcommands.
fn with_file(mut command: Command, file: &Path) -> Result<Command, clap::Error> {
    let shown = file.display();
    let refuse =
        |command: &mut Command, message: String| command.error(ErrorKind::ValueValidation, message);
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            return Err(refuse(
                &mut command,
                format!("reading settings file {shown}: {error}"),
            ));
        }
    };
    let table: toml::Table = match toml::from_str(&text) {
        Ok(table) => table,
        Err(error) => {
            return Err(refuse(
                &mut command,
                format!("settings file {shown}: {error}"),
            ));
        }
    };
    for (key, value) in &table {
        if NOT_IN_FILE.contains(&key.as_str()) || !knows(&command, key) {
            return Err(refuse(
                &mut command,
                format!("settings file {shown}: unknown key `{key}`; --help lists all keys"),
            ));
        }
        let Some(values) = texts(value) else {
            return Err(refuse(
                &mut command,
                format!(
                    "settings file {shown}: `{key}` must be a text, a number, a boolean or a list of these, not a {}",
                    value.type_str()
                ),
            ));
        };
        for subcommand in command.get_subcommands_mut() {
            if knows(subcommand, key) {
                let values = values.clone();
                *subcommand =
                    std::mem::take(subcommand).mut_arg(key, |argument| from_file(argument, values));
            }
        }
        command = command.mut_arg(key, |argument| from_file(argument, values));
    }
    Ok(command)
}

fn knows(command: &Command, key: &str) -> bool {
    let mut arguments = command.get_arguments();
    arguments.any(|argument| argument.get_id() == key)
}

/// A value of the file as the command line would say it.
fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(truth) => Some(vec![truth.to_string()]),
        toml::Value::Array(items) => {
            let mut all = Vec::with_capacity(items.len());
            for item in items {
                if item.is_array() {
                    return None;
                }
                all.extend(texts(item)?);
            }
            Some(all)
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Sample {
        /// The file.
        #[arg(long)]
        config: Option<PathBuf>,
        /// A number.
        #[arg(long, default_value_t = 7)]
        workers: usize,
        /// A part of a whole.
        #[arg(long, default_value_t = 0.01)]
        share: f64,
        /// A list.
        #[arg(long, value_delimiter = ',', default_value = "a,b")]
        names: Vec<String>,
        /// A switch.
        #[arg(long, alias = "switched-on", default_value_t = true, action = clap::ArgAction::Set)]
        enabled: bool,
        /// A key.
        #[arg(long, value_delimiter = ',')]
        key: Vec<PathBuf>,
    }

    fn load_file(text: &str, more: &[&str]) -> Result<Sample, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().as_os_str().to_owned();
        let arguments = [OsString::from("sample"), "--config".into(), path]
            .into_iter()
            .chain(more.iter().map(OsString::from));
        load(arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_overrides_defaults_and_the_command_line_overrides_the_file() {
        let sample = load_file("workers = 3\nnames = [\"x\"]\nenabled = false", &[]).unwrap();
        assert_eq!(
            (sample.workers, sample.names, sample.enabled),
            (3, vec!["x".to_owned()], false)
        );
        let sample = load_file("workers = 3", &["--workers", "5"]).unwrap();
        assert_eq!((sample.workers, sample.names.len()), (5, 2));
        let message = load_file("", &["--workers", "-1"]).unwrap_err();
        assert!(message.contains("--workers"), "{message}");
        assert!(sample.config.is_some());
        assert_eq!(defaults::<Sample>().workers, 7);
    }

    #[test]
    fn help_names_every_setting_with_its_variable() {
        let mut command = command::<Sample>();
        let help = command.render_long_help().to_string();
        for name in ["CONFIG", "WORKERS", "SHARE", "NAMES", "ENABLED", "KEY"] {
            assert!(help.contains(&format!("[env: WARDGATE_{name}")), "{name}");
        }
    }

    #[test]
    fn a_number_of_the_file_may_be_a_fraction() {
        assert!(defaults::<Sample>().share < 0.1);
        let sample = load_file("share = 0.25", &[]).unwrap();
        assert_eq!(sample.share.to_string(), "0.25");
        let sample = load_file("share = 1", &[]).unwrap();
        assert_eq!(sample.share.to_string(), "1");
    }

    #[test]
    fn kong_may_have_another_name_for_it_and_another_truth() {
        let command = Sample::command();
        let of = |id: &str| {
            let mut arguments = command.get_arguments();
            arguments.find(|argument| argument.get_id() == id).unwrap()
        };
        assert_eq!(kongs_variables(of("workers")), ["KONG_WORKERS"]);
        let both = ["KONG_ENABLED", "KONG_SWITCHED_ON"];
        assert_eq!(kongs_variables(of("enabled")), both);
        for (text, truth) in [("on", true), ("off", false), ("true", true)] {
            let sample = load_file("", &["--switched-on", text]).unwrap();
            assert_eq!(sample.enabled, truth, "{text}");
        }
        let message = load_file("", &["--enabled", "maybe"]).unwrap_err();
        assert!(message.contains("--enabled"), "{message}");
        let set = [
            "KONG_ROLE",
            "WARDGATE_ROLE",
            "KONG_SWITCHED_ON",
            "WARDGATE_ENABLED",
            "WARDGATE_CONFIG",
            "PATH",
        ];
        let unheeded = unheeded::<Sample>(set.map(OsString::from));
        assert_eq!(unheeded, ["KONG_ROLE", "WARDGATE_ROLE"]);
    }

    #[test]
    fn the_text_of_a_file_in_the_place_of_its_name_is_refused_and_not_shown() {
        for text in [
            "-----BEGIN PRIVATE KEY-----\nMIIEsecret\n-----END PRIVATE KEY-----\n",
            "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tsecret",
            &format!("MIIEsecret{}", "x".repeat(300)),
            &"secret/".repeat(700),
        ] {
            let message = load_file("", &[&format!("--key=a.pem,{text}")]).unwrap_err();
            assert!(message.contains("`key` holds the text"), "{message}");
            assert!(!message.contains("secret"), "{message}");
            let message = load_file(&format!("key = {text:?}"), &[]).unwrap_err();
            assert!(message.contains("`key` holds the text"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
        // Nor what is in the place of something else, whether or not that could be it.
        let key = "-----BEGIN PRIVATE KEY-----\nMIIEsecret\n-----END PRIVATE KEY-----\n";
        for setting in ["workers", "names", "enabled"] {
            let by_line = load_file("", &[&format!("--{setting}={key}")]).unwrap_err();
            let by_file = load_file(&format!("{setting} = {key:?}"), &[]).unwrap_err();
            for message in [by_line, by_file] {
                assert!(message.contains(setting), "{message}");
                assert!(message.contains("holds the text"), "{message}");
                assert!(!message.contains("secret"), "{message}");
            }
        }
        let sample = load_file("", &["--key", "/a/b.pem,c.key"]).unwrap();
        assert_eq!(sample.key, ["/a/b.pem", "c.key"].map(PathBuf::from));
    }

    #[test]
    fn a_bad_file_is_an_error_that_names_the_key() {
        for (text, part) in [
            ("wrokers = 3", "unknown key `wrokers`"),
            ("config = \"x\"", "unknown key `config`"),
            ("workers = \"many\"", "--workers"),
            ("workers = 1.5", "--workers"),
            ("[workers]\na = 1", "`workers` must be"),
            ("workers = ", "settings file"),
        ] {
            let message = load_file(text, &[]).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
