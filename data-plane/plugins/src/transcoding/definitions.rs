//! The services that a `.proto` file defines, with what it imports.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use protox::{Compiler, Error};

use crate::host::Host;

/// Most files that one may import, directly or not.
const FILES: usize = 64;

/// Pause between two attempts to read a file that cannot be read, in milliseconds.
const PAUSE: u64 = 1000;

/// How services tell of their HTTP paths (`google/api/annotations.proto`), as far as that concerns requests.
const BUILT_IN: [(&str, &str); 2] = [
    (
        "google/api/annotations.proto",
        r#"syntax = "proto3";
        package google.api;
        import "google/api/http.proto";
        import "google/protobuf/descriptor.proto";
        extend google.protobuf.MethodOptions { HttpRule http = 72295728; }"#,
    ),
    (
        "google/api/http.proto",
        r#"syntax = "proto3";
        package google.api;
        message HttpRule {
          string selector = 1;
          oneof pattern {
            string get = 2;
            string put = 3;
            string post = 4;
            string delete = 5;
            string patch = 6;
            CustomHttpPattern custom = 8;
          }
          string body = 7;
          repeated HttpRule additional_bindings = 11;
          string response_body = 12;
        }
        message CustomHttpPattern { string kind = 1; string path = 2; }"#,
    ),
];

/// The methods of the services that a file defines.
#[derive(Debug)]
pub(crate) struct Definitions {
    /// By their path: `/package.Service/Method`.
    methods: HashMap<String, Method>,
    /// In the order of the file.
    pub(crate) described: Vec<MethodDescriptor>,
}

/// A method of a service.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    pub(crate) input: MessageDescriptor,
    pub(crate) output: MessageDescriptor,
}

/// Reads a file, or says why not.
pub(crate) type Read<'a> = &'a dyn Fn(&str) -> Result<String, String>;

impl Definitions {
    /// Reads the file at `path`, and what it imports from beside and below it.
    pub(crate) fn read(path: &str, read: Read<'_>) -> Result<Self, String> {
        let (directory, name) = match path.rsplit_once('/') {
            Some((directory, name)) => (format!("{directory}/"), name),
            None => (String::new(), path),
        };
        let text = read(path).map_err(|reason| format!("reading {path}: {reason}"))?;
        let files = Files::collect(name, &text, &|import| read(&format!("{directory}{import}")))?;
        let mut resolver = ChainFileResolver::new();
        resolver.add(files);
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true);
        compiler.open_file(name).map_err(|error| told(&error))?;
        Ok(Self::of(&compiler.descriptor_pool(), name))
    }

    fn of(pool: &DescriptorPool, name: &str) -> Self {
        let services = pool
            .services()
            .filter(|service| service.parent_file().name() == name);
        let described: Vec<MethodDescriptor> = services
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .collect();
        let methods = described.iter().map(|method| {
            let types = Method {
                input: method.input(),
                output: method.output(),
            };
            (path_of(method), types)
        });
        Self {
            methods: methods.collect(),
            described,
        }
    }

    /// The method that is called by `path`.
    pub(crate) fn method(&self, path: &str) -> Option<&Method> {
        self.methods.get(path)
    }
}

/// What `method` is called by.
pub(crate) fn path_of(method: &MethodDescriptor) -> String {
    let service = method.parent_service();
    format!("/{}/{}", service.full_name(), method.name())
}

/// What is wrong, and no line of a file: whoever reads a log need not see it.
fn told(error: &Error) -> String {
    error.to_string()
}

/// The texts of files, by the names that they are imported by.
#[derive(Debug)]
struct Files(BTreeMap<String, String>);

impl Files {
    /// That of `name`, which holds `text`, and those that it imports, as far as they are not known to everybody.
    fn collect(name: &str, text: &str, read: Read<'_>) -> Result<Self, String> {
        let built_in = BUILT_IN.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let mut files = Self(BTreeMap::from(built_in));
        let mut wanted = vec![(name.to_owned(), text.to_owned())];
        while let Some((name, text)) = wanted.pop() {
            let parsed = File::from_source(&name, &text).map_err(|error| told(&error))?;
            for import in &parsed.file_descriptor_proto().dependency {
                let known = files.0.contains_key(import)
                    || import.starts_with("google/protobuf/")
                    || wanted.iter().any(|(name, _)| name == import);
                if known {
                    continue;
                }
                let inside = |part: &str| !part.is_empty() && part != "." && part != "..";
                if !import.split('/').all(inside) || files.0.len() + wanted.len() > FILES {
                    return Err(format!("{import} cannot be imported"));
                }
                let text = read(import).map_err(|reason| format!("reading {import}: {reason}"))?;
                wanted.push((import.clone(), text));
            }
            files.0.insert(name, text);
        }
        Ok(files)
    }
}

impl FileResolver for Files {
    fn open_file(&self, name: &str) -> Result<File, Error> {
        match self.0.get(name) {
            Some(text) => File::from_source(name, text),
            None => Err(Error::file_not_found(name)),
        }
    }
}

/// What is made of a file once it is needed. One that cannot be read is looked for again, but not by every request.
#[derive(Debug)]
pub(crate) struct Loaded<T> {
    path: String,
    made: OnceLock<T>,
    /// When the file was looked for in vain, in milliseconds since 1970.
    failed: AtomicU64,
}

impl<T> Loaded<T> {
    /// Of the file at `path`.
    pub(crate) const fn new(path: String) -> Self {
        Self {
            path,
            made: OnceLock::new(),
            failed: AtomicU64::new(0),
        }
    }

    /// What `make` makes of it; nothing if it cannot be read, which the log tells.
    pub(crate) fn get(
        &self,
        host: &impl Host,
        make: impl Fn(Definitions) -> Result<T, String>,
    ) -> Option<&T> {
        if let Some(made) = self.made.get() {
            return Some(made);
        }
        let now = host.now().as_millis();
        if now.abs_diff(self.failed.load(Ordering::Relaxed)) < PAUSE {
            return None;
        }
        let read = Definitions::read(&self.path, &|path| host.read_definition(path));
        match read.and_then(make) {
            Ok(value) => Some(self.made.get_or_init(|| value)),
            Err(error) => {
                self.failed.store(now, Ordering::Relaxed);
                tracing::error!(file = self.path, error, "the definitions cannot be read");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{definitions, read};
    use super::*;

    #[test]
    fn methods_go_by_their_path() {
        let definitions = definitions();
        assert_eq!(definitions.described.len(), 3);
        let plain = definitions.method("/greet.v1.Greeter/Plain").unwrap();
        assert_eq!(plain.input.full_name(), "greet.v1.Greeting");
        assert_eq!(plain.output.full_name(), "greet.v1.Reply");
        assert!(definitions.method("/greet.v1.Greeter/None").is_none());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        for (path, expected) in [
            ("/defs/none.proto", "reading /defs/none.proto: no such file"),
            ("/defs/broken.proto", "expected an identifier"),
            // The parser takes none for an import that leads away, and has no good word for that.
            ("/defs/away.proto", ""),
        ] {
            let error = Definitions::read(path, &read).unwrap_err();
            assert!(error.contains(expected), "{path}: {error}");
        }
    }
}
