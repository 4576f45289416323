//! Reading: one object, or a list in pages of one revision.
//!
//! A list that does not fit one answer is read in pages, and every page is read at the revision of
//! the first, so that together they are one consistent list. The token a client goes on with names
//! that revision and the key to begin at; its form is upstream's, because a client may have got it
//! from another server. When the revision has been compacted meanwhile, the refusal carries a token
//! that goes on at the newest revision, for clients who prefer an inconsistent list to none.
//!
//! A selector is applied here, not in the store: a page of selected objects may take several reads.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use super::options::{List, ListOptions, Match};
use super::{Registry, codec, key};
use crate::api::{Key, Kind, Object, Status};
use crate::client::etcd::{Entry, Range, StoreError};

/// Objects per read. Ten objects of the largest size must fit one answer of the client.
const CHUNK: usize = 1000;
const TOKEN_VERSION: &str = "meta.k8s.io/v1";
/// Revision of a token that does not ask for one.
const ANY_REVISION: i64 = -1;
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list \
    result. You can start a new list without the continue parameter, or use the continue token in \
    this response to retrieve the remainder of the results. Continuing with the provided token \
    results in an inconsistent list - objects that were created, modified, or deleted between the \
    time the first chunk was returned and now may show up in the list.";

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    revision: i64,
    /// Key below the prefix of the list.
    start: String,
}

impl Token {
    fn encode(&self) -> String {
        let json = json!({"v": TOKEN_VERSION, "rv": self.revision, "start": self.start});
        URL_SAFE_NO_PAD.encode(json.to_string())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .or_else(|_| STANDARD.decode(text))
            .map_err(|error| bad(&error.to_string()))?;
        let json: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
        if json["v"] != TOKEN_VERSION {
            return Err(bad("server does not recognize this encoded version"));
        }
        let revision = json["rv"].as_i64().filter(|rv| *rv == ANY_REVISION || *rv > 0);
        let revision = revision.ok_or_else(|| bad("incorrect encoded start resourceVersion"))?;
        match json["start"].as_str().filter(|start| !start.is_empty()) {
            Some(start) => Ok(Self { revision, start: start.to_owned() }),
            None => Err(bad("encoded start key empty")),
        }
    }
}

/// One read of a list.
struct Cursor {
    prefix: String,
    /// Key to begin at.
    start: Vec<u8>,
    /// 0: the newest.
    revision: i64,
    chunk: usize,
}

impl Registry {
    /// One object.
    pub async fn get(&self, kind: &'static Kind, key: &Key) -> Result<Object, Status> {
        let entry = self.entry(kind, key).await?;
        Ok(codec::present(kind, codec::decode(&entry)?))
    }

    pub(super) async fn entry(&self, kind: &'static Kind, key: &Key) -> Result<Entry, Status> {
        super::check_scope(kind, key)?;
        let found = self.store().get(key::object(kind, key)).await;
        found
            .map_err(|error| codec::store_error(&error))?
            .ok_or_else(|| Status::not_found(kind, &key.name))
    }

    /// The objects of a kind, in one namespace or in all.
    pub async fn list(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<List, Status> {
        let token = options.continue_token.as_deref().map(Token::decode).transpose()?;
        let wanted = revision_wanted(options)?;
        if let Some(list) = self.list_one(kind, namespace, options).await? {
            return checked(list, wanted.at_least);
        }
        let prefix = key::prefix(kind, namespace);
        let mut start = prefix.clone();
        let mut revision = wanted.exactly;
        if let Some(token) = &token {
            start.push_str(&token.start);
            revision = token.revision.max(0);
        }
        let cursor = Cursor { prefix, start: start.into_bytes(), revision, chunk: CHUNK };
        let list = self.list_pages(kind, cursor, options).await.map_err(|error| match error {
            Failure::Said(status) => status,
            Failure::Store(StoreError::Compacted { .. }, Some(start)) if token.is_some() => {
                let fresh = Token { revision: ANY_REVISION, start };
                let mut status = Status::expired(INCONSISTENT);
                status.continue_token = Some(fresh.encode());
                status
            }
            Failure::Store(StoreError::FutureRevision, _) => {
                Status::too_large_revision(wanted.exactly, 0)
            }
            Failure::Store(error, _) => codec::store_error(&error),
        })?;
        checked(list, wanted.at_least)
    }

    /// A list of the object of one name is one read.
    async fn list_one(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Option<List>, Status> {
        let newest = matches!(options.resource_version.as_str(), "" | "0");
        let name = options.selector.fields.required("metadata.name");
        let key = match (name, namespace) {
            (Some(name), Some(namespace)) if kind.namespaced => Key::namespaced(namespace, name),
            (Some(name), _) if !kind.namespaced => Key::cluster(name),
            _ => return Ok(None),
        };
        if options.continue_token.is_some() || !newest {
            return Ok(None);
        }
        let range = Range::key(key::object(kind, &key));
        let answer =
            self.store().range(&range).await.map_err(|error| codec::store_error(&error))?;
        let mut items = Vec::new();
        for entry in &answer.entries {
            let object = codec::present(kind, codec::decode(entry)?);
            if options.selector.matches(&object) {
                items.push(object);
            }
        }
        Ok(Some(List {
            items,
            resource_version: answer.revision,
            continue_token: None,
            remaining: None,
        }))
    }

    async fn list_pages(
        &self,
        kind: &'static Kind,
        mut cursor: Cursor,
        options: &ListOptions,
    ) -> Result<List, Failure> {
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let everything = options.selector.is_everything();
        let mut items = Vec::new();
        loop {
            let asked =
                if everything { (limit - items.len()).min(cursor.chunk) } else { cursor.chunk };
            let answer = match self.chunk(&cursor, asked).await {
                Ok(answer) => answer,
                Err(error) if too_big(&error) && cursor.chunk > 1 => {
                    cursor.chunk = asked / 2;
                    continue;
                }
                Err(error) => return Err(Failure::Store(error, cursor.position())),
            };
            if cursor.revision == 0 {
                cursor.revision = answer.revision;
            }
            let found = answer.entries.len();
            for (nth, entry) in answer.entries.into_iter().enumerate() {
                let object = codec::decode(&entry).map_err(Failure::Said)?;
                let object = codec::present(kind, object);
                cursor.start = [&entry.key, &b"\0"[..]].concat();
                if !options.selector.matches(&object) {
                    continue;
                }
                items.push(object);
                if items.len() == limit && (answer.more || nth + 1 < found) {
                    let after = i64::try_from(nth + 1).unwrap_or(i64::MAX);
                    let remaining = everything.then_some(answer.count - after);
                    return Ok(cursor.page(items, remaining));
                }
            }
            if !answer.more {
                let resource_version = cursor.revision;
                return Ok(List { items, resource_version, continue_token: None, remaining: None });
            }
        }
    }

    async fn chunk(
        &self,
        cursor: &Cursor,
        limit: usize,
    ) -> Result<crate::client::etcd::RangeAnswer, StoreError> {
        let range = Range {
            key: cursor.start.clone().into(),
            range_end: crate::client::etcd::prefix_end(cursor.prefix.as_bytes()),
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
            revision: cursor.revision,
            ..Range::default()
        };
        self.store().range(&range).await
    }
}

enum Failure {
    Said(Status),
    /// A failure of the store and the place the list had come to.
    Store(StoreError, Option<String>),
}

impl Cursor {
    /// The place the list has come to, below the prefix.
    fn position(&self) -> Option<String> {
        let rest = self.start.get(self.prefix.len()..)?;
        String::from_utf8(rest.to_vec()).ok().filter(|rest| !rest.is_empty())
    }

    fn page(&self, items: Vec<Object>, remaining: Option<i64>) -> List {
        let start = self.position();
        let token = start.map(|start| Token { revision: self.revision, start }.encode());
        List { items, resource_version: self.revision, continue_token: token, remaining }
    }
}

/// Whether an answer did not fit: fewer objects may.
fn too_big(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused(text) if text.contains("message length too large"))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// Read at this revision; 0: the newest.
    exactly: i64,
    /// The answer must be at least so new.
    at_least: i64,
}

fn revision_wanted(options: &ListOptions) -> Result<Wanted, Status> {
    let text = options.resource_version.as_str();
    if options.continue_token.is_some() && !matches!(text, "" | "0") {
        return Err(Status::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    if options.version_match.is_some() && text.is_empty() {
        return Err(list_option(
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ));
    }
    if options.version_match.is_some() && options.continue_token.is_some() {
        return Err(list_option("resourceVersionMatch is forbidden when continue is provided"));
    }
    if options.version_match == Some(Match::Exact) && text == "0" {
        return Err(list_option(
            "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
        ));
    }
    let revision = super::parse_revision(text)?;
    // A page asked for by revision means that revision: the rule from before the match was named.
    let exact = match options.version_match {
        Some(how) => how == Match::Exact,
        None => options.limit > 0,
    };
    Ok(if exact {
        Wanted { exactly: revision, at_least: 0 }
    } else {
        Wanted { exactly: 0, at_least: revision }
    })
}

fn list_option(why: &str) -> Status {
    Status::unprocessable(format!(
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: {why}"
    ))
}

fn checked(list: List, at_least: i64) -> Result<List, Status> {
    if list.resource_version < at_least {
        return Err(Status::too_large_revision(at_least, list.resource_version));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_trip() {
        let token = Token { revision: 7, start: "default/web\0".into() };
        assert_eq!(Token::decode(&token.encode()), Ok(token));
        for bad in ["", "%%", "e30", &URL_SAFE_NO_PAD.encode("{\"v\":\"meta.k8s.io/v1\",\"rv\":0}")]
        {
            assert_eq!(Token::decode(bad).map_err(|status| status.code), Err(400), "{bad}");
        }
    }

    #[test]
    fn revisions_mean_what_kubernetes_says() {
        let wanted = |version: &str, limit, version_match| {
            let options = ListOptions {
                resource_version: version.into(),
                limit,
                version_match,
                ..ListOptions::default()
            };
            revision_wanted(&options)
        };
        assert_eq!(wanted("", 0, None), Ok(Wanted::default()));
        assert_eq!(wanted("0", 500, None), Ok(Wanted::default()));
        assert_eq!(wanted("9", 0, None), Ok(Wanted { exactly: 0, at_least: 9 }));
        assert_eq!(wanted("9", 500, None), Ok(Wanted { exactly: 9, at_least: 0 }));
        assert_eq!(
            wanted("9", 500, Some(Match::NotOlderThan)),
            Ok(Wanted { exactly: 0, at_least: 9 })
        );
        assert!(wanted("", 0, Some(Match::Exact)).is_err());
        assert!(wanted("0", 0, Some(Match::Exact)).is_err());
        assert!(wanted("x", 0, None).is_err());
    }
}
