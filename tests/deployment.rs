//! docker-compose.yml, the image, and what is in `deploy/`: no test can start all of that, so its parts are compared with each
//! other and with the program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Folder, guests, start, workspace};

const COMPOSE: &str = "docker-compose.yml";
const ALERTS: &str = "deploy/prometheus/alerts.yml";
const KUBERNETES: &str = "deploy/kubernetes";
const AUTOSCALING: &str = "deploy/kubernetes/autoscaling";

/// The services that are this program.
const SERVICES: [&str; 4] = ["ingest", "validate", "timescale-writer", "clickhouse-writer"];

/// Where a container has its secrets.
const SECRETS: &str = "/run/secrets/";

/// A file of the repository.
fn read(path: &str) -> String {
    std::fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The one document of a YAML file.
fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of a YAML file.
fn documents(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn entries(value: &Value) -> serde_json::map::Iter<'_> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no mapping")).iter()
}

fn items(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn texts(list: &Value) -> Vec<String> {
    items(list).map(|item| text(item).to_owned()).collect()
}

/// One of the four services, as a file starts it.
struct Service {
    name: String,
    /// What comes after `tidegate`.
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl Service {
    fn of_compose(compose: &Value, name: &str) -> Service {
        let service = &compose["services"][name];
        let environment = entries(&service["environment"]);
        Service {
            name: name.to_owned(),
            arguments: texts(&service["command"]),
            environment: environment
                .map(|(name, value)| (name.clone(), default_of(text(value)).to_owned()))
                .collect(),
        }
    }

    fn of_pod(set: &Value) -> Service {
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        let environment = items(&container["env"]).map(|variable| {
            // What has no value here is the pod's name.
            let value = variable["value"].as_str().unwrap_or("pod-0");
            (text(&variable["name"]).to_owned(), value.to_owned())
        });
        Service {
            name: text(&set["metadata"]["name"]).to_owned(),
            arguments: texts(&container["args"]),
            environment: environment.collect(),
        }
    }

    fn port(&self) -> u16 {
        let address = &self.environment["TIDEGATE_HTTP"];
        address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an address and a port")
    }

    /// The pipeline file's name; the image has it in a folder of its own.
    fn pipeline(&self) -> String {
        let inside = self.arguments.iter().find_map(|argument| argument.strip_prefix("/etc/tidegate/"));
        inside.unwrap_or_else(|| panic!("`{}` runs no file of the image", self.name)).to_owned()
    }

    /// The command is one of the program, the pipeline file is right with these variables, and it asks for each of them.
    fn is_right(&self) {
        assert_eq!(self.arguments[0], "run", "{}", self.name);
        assert!(self.arguments.iter().any(|argument| argument == "--wait"), "{}", self.name);
        is_a_command(&self.arguments);
        let content = read(&self.pipeline());
        for variable in self.environment.keys() {
            let name = variable.strip_suffix("_FILE").filter(|name| *name != "TIDEGATE_TOKEN");
            let reference = format!("${{{}", name.unwrap_or(variable));
            let is_known = variable == "TIDEGATE_INSTANCE" || content.contains(&reference);
            assert!(is_known, "`{}`: nothing reads `{variable}`", self.name);
        }
        let port = self.port();
        let usual = format!("${{TIDEGATE_HTTP:-127.0.0.1:{port}}}");
        assert!(content.contains(&usual), "`{}` has another port than `{usual}`", self.name);
        self.check();
    }

    /// `tidegate check` with the variables; secrets are files of the test.
    fn check(&self) {
        let folder = Folder::new();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.env_clear();
        // Where compiled components are kept.
        for variable in ["HOME", "XDG_CACHE_HOME"] {
            command.envs(std::env::var_os(variable).map(|value| (variable, value)));
        }
        for (variable, value) in &self.environment {
            let secret = value.strip_prefix(SECRETS);
            if let Some(secret) = secret {
                folder.write(secret, secret_content(secret));
            }
            command.env(variable, secret.map_or_else(|| PathBuf::from(value), |secret| folder.path(secret)));
        }
        command.arg("check").arg("--guests").arg(guests()).arg(workspace().join(self.pipeline()));
        let outcome = start(&mut command).finish();
        let said = (outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str());
        assert_eq!(said, (Some(0), "", ""), "{}", self.name);
    }
}

/// What a secret could be.
fn secret_content(name: &str) -> &'static str {
    if name.ends_with("postgres_url") {
        "postgres://tidegate:0123456789abcdef@postgres:5432/market"
    } else {
        "0123456789abcdef0123456789abcdef"
    }
}

/// What Docker makes of `${NAME:-default}` when the variable is not set.
fn default_of(value: &str) -> &str {
    let reference = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    match reference {
        Some(reference) => reference.split_once(":-").expect("a variable has a default").1,
        None => value,
    }
}

/// With `--help` at its end the program looks at the arguments before it, and does nothing.
fn is_a_command(arguments: &[String]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let outcome = start(command.args(arguments).arg("--help")).finish();
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
}

/// The instructions of the Dockerfile: a word in capitals and what it is about, with continued lines.
fn instructions() -> Vec<(String, String)> {
    let dockerfile = read("Dockerfile");
    let mut instructions = Vec::new();
    let mut open = String::new();
    for line in dockerfile.lines().filter(|line| !line.trim_start().starts_with('#')) {
        if let Some(part) = line.strip_suffix('\\') {
            open.push_str(part);
            continue;
        }
        open.push_str(line);
        if let Some((word, rest)) = open.trim().split_once(' ') {
            instructions.push((word.to_owned(), rest.trim().to_owned()));
        }
        open.clear();
    }
    instructions
}

#[test]
fn the_services_of_compose_are_commands_that_are_right() {
    let compose = yaml(COMPOSE);
    let mut ports = BTreeSet::new();
    let mut names = BTreeSet::new();
    for name in SERVICES {
        let service = Service::of_compose(&compose, name);
        service.is_right();
        let (port, written) = (service.port(), &compose["services"][name]);
        assert_eq!(texts(&written["ports"]), [format!("127.0.0.1:{port}:{port}")], "{name}");
        let health = texts(&written["healthcheck"]["test"]);
        assert_eq!(health[..3], ["CMD", "tidegate", "health"].map(str::to_owned), "{name}");
        assert_eq!(health[3], format!("127.0.0.1:{port}"), "{name}");
        is_a_command(&health[2..]);
        ports.insert(port);
        names.insert(service.environment["TIDEGATE_INSTANCE"].clone());
    }
    assert_eq!((ports.len(), names.len()), (SERVICES.len(), SERVICES.len()), "two have one port or name");
}

#[test]
fn the_services_of_compose_are_one_image_and_not_root() {
    let compose = yaml(COMPOSE);
    let built = entries(&compose["services"]).filter(|(_, service)| !service["build"].is_null());
    let built: BTreeSet<&str> = built.map(|(name, _)| name.as_str()).collect();
    assert_eq!(built, BTreeSet::from(SERVICES));
    for name in SERVICES {
        let service = &compose["services"][name];
        assert_eq!((text(&service["build"]), text(&service["image"])), (".", "tidegate"), "{name}");
        let user = text(&service["user"]).split(':').next().unwrap_or_default();
        assert!(user.parse::<u32>().is_ok_and(|user| user > 0), "{name} runs as {user}");
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        // The alert of memory has the same figure.
        assert_eq!(text(&service["deploy"]["resources"]["limits"]["memory"]), "1G", "{name}");
        let state = texts(&service["volumes"]);
        assert_eq!(state, [format!("{name}:/var/lib/tidegate")], "a state folder is of one process");
    }
    assert!(read(ALERTS).contains("0.85 * 2^30"), "the alert of memory has another limit");
}

#[test]
fn everything_in_compose_is_limited_and_open_to_this_machine_only() {
    let compose = yaml(COMPOSE);
    for (name, service) in entries(&compose["services"]) {
        let limits = &service["deploy"]["resources"]["limits"];
        assert!(limits["memory"].is_string() && limits["cpus"].is_string(), "{name} has no limits");
        let security = texts(&service["security_opt"]);
        assert!(security.iter().any(|option| option == "no-new-privileges:true"), "{name}");
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(text(port).starts_with("127.0.0.1:"), "{name} has {port} open to others");
        }
        let tag = text(&service["image"]).rsplit_once(':').map(|(_, tag)| tag);
        assert!(
            !service["build"].is_null() || tag.is_some_and(|tag| tag != "latest"),
            "{name} has no version"
        );
        // A list says in which order, a mapping waits; and nobody may have to wait.
        assert!(!service["depends_on"].is_object(), "{name} waits for others");
    }
}

#[test]
fn what_compose_names_is_there() {
    let compose = yaml(COMPOSE);
    for (name, service) in entries(&compose["services"]) {
        let secrets: Vec<&str> = service["secrets"].as_array().into_iter().flatten().map(text).collect();
        for secret in &secrets {
            let file = text(&compose["secrets"][secret]["file"]);
            assert_eq!(file, format!("./deploy/secrets/{secret}"), "{name}");
        }
        for value in service["environment"].as_object().into_iter().flat_map(|variables| variables.values()) {
            let secret = text(value).strip_prefix(SECRETS);
            assert!(secret.is_none_or(|secret| secrets.contains(&secret)), "{name} does not get {value}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = text(volume).split(':').next().unwrap_or_default();
            let is_there = match source.strip_prefix("./") {
                Some(path) => workspace().join(path).exists(),
                None => compose["volumes"].as_object().is_some_and(|volumes| volumes.contains_key(source)),
            };
            assert!(is_there, "{name}: there is no {source}");
        }
    }
}

#[test]
fn all_secrets_of_compose_are_made_once() {
    let folder = Folder::new();
    folder.write("deploy/make-secrets", read("deploy/make-secrets"));
    folder.write("deploy/secrets/README.md", "");
    let make = || {
        let outcome = start(Command::new("sh").arg(folder.path("deploy/make-secrets"))).finish();
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let compose = yaml(COMPOSE);
        let made =
            entries(&compose["secrets"]).map(|(name, _)| folder.read(&format!("deploy/secrets/{name}")));
        made.collect::<Vec<_>>()
    };
    let made = make();
    let different: BTreeSet<&Vec<u8>> = made.iter().collect();
    assert_eq!(different.len(), made.len());
    for secret in &made {
        // Of a token at least sixteen; no line end, which would be part of a password.
        assert!(secret.len() >= 16 && secret.iter().all(u8::is_ascii_graphic));
    }
    assert_eq!(make(), made, "a database has taken its password already");
}

#[test]
fn the_servers_of_development_are_where_xtask_expects_them() {
    let servers = yaml("docker-compose.servers.yml");
    assert_ne!(servers["name"], yaml(COMPOSE)["name"], "one would stop the other");
    for (name, port) in [("kafka", 9092), ("postgres", 5432), ("clickhouse", 8123)] {
        let ports = texts(&servers["services"][name]["ports"]);
        assert_eq!(ports, [format!("127.0.0.1:{port}:{port}")], "{name}");
    }
}

#[test]
fn the_image_has_the_pipeline_files_and_is_not_root() {
    let instructions = instructions();
    let ignored = read(".dockerignore");
    let ignored: Vec<&str> =
        ignored.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut copied = BTreeSet::new();
    let of_the_repository = |(word, rest): &&(String, String)| word == "COPY" && !rest.starts_with("--from=");
    for (_, rest) in instructions.iter().filter(of_the_repository) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let (_, sources) = words.split_last().expect("a place to copy to");
        for source in sources {
            assert!(workspace().join(source).exists(), "there is no `{source}`");
            let hides = |pattern: &&str| source == pattern || source.starts_with(&format!("{pattern}/"));
            assert!(!ignored.iter().any(hides), "`{source}` is in .dockerignore");
            copied.insert((*source).to_owned());
        }
    }
    let compose = yaml(COMPOSE);
    for name in SERVICES {
        let pipeline = Service::of_compose(&compose, name).pipeline();
        assert!(copied.contains(&pipeline), "the image has no `{pipeline}`");
    }
    let last =
        |word: &str| instructions.iter().rfind(|(other, _)| other == word).map(|(_, rest)| rest.as_str());
    assert_eq!(last("USER"), Some(text(&compose["services"]["ingest"]["user"])));
    assert_eq!(last("ENTRYPOINT"), Some("[\"tidegate\"]"));
    let compiler = format!("rust:{}-", env!("CARGO_PKG_RUST_VERSION"));
    assert!(instructions[0].1.starts_with(&compiler), "{} is not `{compiler}…`", instructions[0].1);
}

/// Runs promtool in the folder of the alerts.
fn promtool(arguments: &[&str]) {
    let mut command = Command::new("promtool");
    command.current_dir(workspace().join("deploy/prometheus")).args(arguments);
    let output = command.output().expect("promtool, which is in Debian's package `prometheus`");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{arguments:?}: {}", said.concat());
}

#[test]
fn promtool_is_content() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts_test.yml"]);
    // Those of the dashboards, as if they were rules; what Grafana fills in is a time.
    let rules = expressions_of_dashboards().into_iter().enumerate().map(|(number, expression)| {
        let expression = expression.replace("$__rate_interval", "1m");
        json!({ "record": format!("dashboards:{number}"), "expr": expression })
    });
    let rules = json!({ "groups": [{ "name": "dashboards", "rules": rules.collect::<Vec<_>>() }] });
    let folder = Folder::new();
    folder.write("rules.yml", rules.to_string());
    promtool(&["check", "rules", folder.path("rules.yml").to_str().unwrap()]);
}

#[test]
fn prometheus_asks_every_service() {
    let settings = yaml("deploy/prometheus/prometheus.yml");
    let job = &settings["scrape_configs"][0];
    // The alerts ask for it.
    assert_eq!(job["job_name"], "tidegate");
    let compose = yaml(COMPOSE);
    let expected = SERVICES.map(|name| format!("{name}:{}", Service::of_compose(&compose, name).port()));
    assert_eq!(texts(&job["static_configs"][0]["targets"]), expected);
}

/// The alerts and what is recorded for them.
fn rules() -> Vec<Value> {
    items(&yaml(ALERTS)["groups"]).flat_map(|group| items(&group["rules"]).cloned()).collect()
}

#[test]
fn every_alert_says_what_to_do() {
    let page = read("docs/operating.md");
    let headings: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let rules = rules();
    let alerts = rules.iter().filter_map(|rule| rule["alert"].as_str().map(|alert| (alert, rule)));
    let mut names = BTreeSet::new();
    for (alert, rule) in alerts {
        for key in ["summary", "description"] {
            assert!(
                rule["annotations"][key].as_str().is_some_and(|words| !words.is_empty()),
                "{alert}: {key}"
            );
        }
        let severity = text(&rule["labels"]["severity"]);
        assert!(["critical", "warning"].contains(&severity), "{alert} is {severity}");
        let anchor = text(&rule["annotations"]["runbook_url"]).rsplit_once("/docs/operating.md#");
        assert_eq!(anchor.map(|(_, anchor)| anchor), Some(alert.to_lowercase().as_str()));
        names.insert(alert);
    }
    assert_eq!(headings, names, "a heading of the third rank for each alert, and no other");
}

/// What docs/metrics.md lists: names and types.
fn metrics() -> BTreeMap<String, String> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let (name, kind) = (cells.next()?.strip_suffix('`')?, cells.next()?);
        let is_metric = ["counter", "gauge", "histogram"].contains(&kind);
        is_metric.then(|| (name.to_owned(), kind.to_owned()))
    });
    rows.collect()
}

/// The names that Prometheus gets from the metrics.
fn series() -> BTreeSet<String> {
    let mut series = BTreeSet::new();
    for (name, kind) in metrics() {
        if kind == "histogram" {
            series.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
        } else {
            series.insert(name);
        }
    }
    series
}

/// The series that an expression of PromQL names: words outside of matchers, ranges, lists of labels and texts that are neither
/// functions nor operators.
fn named(expression: &str) -> BTreeSet<String> {
    const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    const OPERATORS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
    let mut names = BTreeSet::new();
    let mut rest = expression;
    // What comes after the next of these signs.
    let after = |rest: &str, sign: char| {
        rest.find(sign).unwrap_or_else(|| panic!("{expression}: no `{sign}`")) + sign.len_utf8()
    };
    while let Some(first) = rest.chars().next() {
        match first {
            '{' => rest = &rest[after(rest, '}')..],
            '[' => rest = &rest[after(rest, ']')..],
            '"' => rest = &rest[1 + after(&rest[1..], '"')..],
            first if !is_of_word(first) => rest = &rest[first.len_utf8()..],
            _ => {
                let length = rest.find(|c: char| !is_of_word(c)).unwrap_or(rest.len());
                let word = &rest[..length];
                rest = rest[length..].trim_start();
                let is_function = ["(", "by ", "without "].iter().any(|next| rest.starts_with(next));
                if LISTS.contains(&word) {
                    rest = &rest[after(rest, ')')..];
                } else if !is_function
                    && !OPERATORS.contains(&word)
                    && !word.starts_with(|c: char| c.is_ascii_digit())
                {
                    names.insert(word.to_owned());
                }
            }
        }
    }
    names
}

#[test]
fn names_are_found_in_expressions() {
    let found = |expression: &str| named(expression).into_iter().collect::<Vec<_>>();
    assert_eq!(found("up{job=\"tidegate\"} == 0"), ["up"]);
    assert_eq!(found("time() - max by (a, b) (x_seconds) > 0.5e3"), ["x_seconds"]);
    assert_eq!(
        found("sum(rate(a_total{x=~\"$y|z\"}[$__rate_interval])) / on (x) b offset 1h"),
        ["a_total", "b"]
    );
    assert_eq!(found("(a:b:c > 2 and d unless e) * 2^30"), ["a:b:c", "d", "e"]);
}

/// The dashboards, by their file names.
fn dashboards() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(workspace().join("deploy/grafana/dashboards")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let read = |path: PathBuf| {
        let content = std::fs::read_to_string(&path).unwrap();
        let dashboard: Value = serde_json::from_str(&content).expect("JSON");
        (path.display().to_string(), dashboard)
    };
    paths.map(read).collect()
}

/// Everything that the dashboards ask for.
fn expressions_of_dashboards() -> Vec<String> {
    let mut expressions = Vec::new();
    for (file, dashboard) in dashboards() {
        let targets = items(&dashboard["panels"]).filter_map(|panel| panel["targets"].as_array()).flatten();
        let asked = targets.chain(items(&dashboard["annotations"]["list"]));
        expressions.extend(asked.map(|asked| text(&asked["expr"]).to_owned()));
        for variable in items(&dashboard["templating"]["list"]) {
            let values = text(&variable["query"]["query"]).strip_prefix("label_values(");
            let (expression, _) = values.and_then(|values| values.rsplit_once(", ")).expect(&file);
            expressions.push(expression.to_owned());
        }
    }
    expressions
}

#[test]
fn alerts_and_dashboards_ask_for_metrics_that_exist() {
    let rules = rules();
    let mut known = series();
    assert!(known.len() > 30, "{known:?}");
    known.insert("up".to_owned());
    known.extend(rules.iter().filter_map(|rule| rule["record"].as_str().map(str::to_owned)));
    let alerts = rules.iter().map(|rule| text(&rule["expr"]).to_owned());
    for expression in alerts.chain(expressions_of_dashboards()) {
        let unknown: Vec<String> = named(&expression).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "nobody exposes {unknown:?} of `{expression}`");
    }
}

#[test]
fn the_dashboards_are_provisioned_and_are_for_one_pipeline_too() {
    let source = yaml("deploy/grafana/provisioning/datasources/prometheus.yml");
    let source = &source["datasources"][0]["uid"];
    let provider = yaml("deploy/grafana/provisioning/dashboards/tidegate.yml");
    let folder = text(&provider["providers"][0]["options"]["path"]);
    let mounted = texts(&yaml(COMPOSE)["services"]["grafana"]["volumes"]);
    let mount = format!("./deploy/grafana/dashboards:{folder}:ro");
    assert!(mounted.contains(&mount), "{mounted:?}");
    let mut names = BTreeSet::new();
    for (file, dashboard) in dashboards() {
        assert!(names.insert(text(&dashboard["uid"]).to_owned()), "{file} has the uid of another");
        let mut variables = items(&dashboard["templating"]["list"]);
        assert!(variables.any(|variable| variable["name"] == "pipeline"), "{file}");
        for panel in items(&dashboard["panels"]).filter(|panel| panel["type"] != "row") {
            assert_eq!(panel["datasource"]["uid"], *source, "{file}: {}", panel["title"]);
        }
    }
}

/// The documents of all files of Kubernetes.
fn manifests() -> Vec<Value> {
    let mut manifests = Vec::new();
    for folder in [KUBERNETES, AUTOSCALING] {
        for file in std::fs::read_dir(workspace().join(folder)).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".yaml") {
                manifests.extend(documents(&format!("{folder}/{name}")));
            }
        }
    }
    for manifest in &manifests {
        assert!(manifest["apiVersion"].is_string() && manifest["kind"].is_string(), "{manifest}");
    }
    manifests
}

/// The document of this kind and name.
fn find<'a>(manifests: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |manifest: &&Value| manifest["kind"] == kind && manifest["metadata"]["name"] == name;
    manifests.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} `{name}`"))
}

#[test]
fn the_pods_run_the_program_as_compose_does() {
    let (manifests, compose) = (manifests(), yaml(COMPOSE));
    let general =
        texts(&yaml(&format!("{KUBERNETES}/kustomization.yaml"))["configMapGenerator"][0]["literals"]);
    for name in SERVICES {
        let set = find(&manifests, "StatefulSet", name);
        let mut service = Service::of_pod(set);
        let of_compose = Service::of_compose(&compose, name);
        assert_eq!(
            (service.pipeline(), service.port()),
            (of_compose.pipeline(), of_compose.port()),
            "{name}"
        );
        service.is_right();
        // What all pods get is not for each, so only whether it is right counts.
        let general = general.iter().filter_map(|literal| literal.split_once('='));
        service.environment.extend(general.map(|(name, value)| (name.to_owned(), value.to_owned())));
        service.check();
        // What is empty is for mirrors of exchanges, which are for whoever tries it.
        for (variable, _) in of_compose.environment.iter().filter(|(_, value)| !value.is_empty()) {
            assert!(service.environment.contains_key(variable), "{name} lacks {variable}");
        }
    }
}

#[test]
fn the_pods_are_asked_at_their_ports_and_may_do_little() {
    let manifests = manifests();
    let secrets = find(&manifests, "Secret", "tidegate");
    for name in SERVICES {
        let set = find(&manifests, "StatefulSet", name);
        let service = Service::of_pod(set);
        let pod = &set["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let port = &container["ports"][0];
        assert_eq!(
            (&port["name"], &port["containerPort"]),
            (&json!("http"), &json!(service.port())),
            "{name}"
        );
        let annotations = &set["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/port"], service.port().to_string(), "{name}");
        for (probe, path) in
            [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
        {
            let asked = &container[probe]["httpGet"];
            assert_eq!((&asked["path"], &asked["port"]), (&json!(path), &json!("http")), "{name}: {probe}");
        }
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(texts(&security["capabilities"]["drop"]), ["ALL"], "{name}");
        assert_eq!(container["resources"]["limits"]["memory"], "1Gi", "{name}");
        assert!(pod["terminationGracePeriodSeconds"].as_u64() > Some(30), "{name}");

        let mounted = items(&pod["volumes"][0]["secret"]["items"]).map(|item| text(&item["path"]));
        let mounted: BTreeSet<&str> = mounted.collect();
        let asked =
            service.environment.values().filter_map(|value| value.strip_prefix("/run/secrets/tidegate/"));
        assert_eq!(mounted, asked.collect::<BTreeSet<&str>>(), "{name}");
        assert!(mounted.iter().all(|secret| secrets["stringData"][secret].is_string()), "{name}");

        assert_eq!(find(&manifests, "Service", name)["spec"]["ports"][0]["port"], service.port(), "{name}");
        let budget = find(&manifests, "PodDisruptionBudget", name);
        assert_eq!(budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"], name);
    }
    assert_eq!(
        find(&manifests, "StatefulSet", "ingest")["spec"]["replicas"],
        1,
        "a second would ask the same"
    );
}

#[test]
fn no_more_pods_are_made_than_there_are_partitions() {
    let manifests = manifests();
    let job = find(&manifests, "Job", "topics");
    let words = texts(&job["spec"]["template"]["spec"]["containers"][0]["command"]);
    let number = words.iter().skip_while(|word| *word != "--partitions").nth(1).expect("a number");
    let partitions: u64 = number.parse().unwrap();
    for name in ["validate", "timescale-writer", "clickhouse-writer"] {
        let scaled = &find(&manifests, "ScaledObject", name)["spec"];
        assert_eq!(scaled["scaleTargetRef"]["name"], name);
        let pipeline = yaml(&Service::of_pod(find(&manifests, "StatefulSet", name)).pipeline());
        let lanes = pipeline["lanes"].as_u64().unwrap();
        assert_eq!(scaled["maxReplicaCount"].as_u64(), Some(partitions / lanes), "{name}");
        let (trigger, source) = (&scaled["triggers"][0]["metadata"], &pipeline["source"]["kafka"]);
        assert_eq!(trigger["consumerGroup"], source["group"], "{name}");
        assert_eq!(trigger["topic"], source["topic"], "{name}");
    }
}

#[test]
fn the_files_of_kustomize_are_there() {
    for folder in [KUBERNETES, AUTOSCALING] {
        for resource in texts(&yaml(&format!("{folder}/kustomization.yaml"))["resources"]) {
            let path = format!("{folder}/{resource}");
            assert!(workspace().join(&path).is_file(), "there is no {path}");
        }
    }
}
