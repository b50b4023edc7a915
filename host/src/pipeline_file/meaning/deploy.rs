//! What a pipeline file can say wrong about replacing its rules, and about HTTP.

use std::net::SocketAddr;

use super::{Check, is_column_name};
use crate::pipeline_file::{Deploy, Http, Pipeline};

impl Check<'_> {
    pub(super) fn deploy(&mut self) {
        let Pipeline { deploy, http, rule_versions, .. } = &self.loaded.pipeline;
        let Deploy { refused, .. } = deploy;
        if !(0.0..=1.0).contains(refused) {
            self.add(&["deploy", "refused"], format!("`refused` must be 0 to 1, but is {refused}"));
        }
        if let Some(name) = rule_versions {
            self.version_column(name);
        }
        let Some(http) = http else { return };
        let path: &[&str] = match http {
            Http::Address(_) => &["http"],
            Http::Listen(_) => &["http", "address"],
        };
        match http.address().parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => {
                self.add(path, format!("`{address}` has no port, so nobody would find it"));
            }
            Ok(address) if !address.ip().is_loopback() && http.token_file().is_none() => self.add(
                path,
                format!(
                    "`{address}` can be reached from other machines, so whoever changes something there must show a token: \
                     write `http: {{ address: {address}, token_file: path }}`, or listen on 127.0.0.1"
                ),
            ),
            Ok(_) => {}
            Err(_) => self.add(
                path,
                format!(
                    "`{}` is no address with a port, such as `127.0.0.1:9101` or `[::1]:9101`",
                    http.address()
                ),
            ),
        }
    }

    fn version_column(&mut self, name: &str) {
        let columns = super::columns(&self.loaded.pipeline.decode.columns);
        if !is_column_name(name) {
            self.add(
                &["rule_versions"],
                format!("the column name `{name}` must be 1 to 64 of `a-z 0-9 _` and not start with a digit"),
            );
        } else if columns.iter().any(|(column, _)| *column == name) {
            self.add(&["rule_versions"], format!("the column `{name}` is one of `decode` already"));
        }
    }
}
