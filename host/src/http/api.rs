//! `/api/v1`: the rules and the exchanges of a pipeline, and how their components are replaced.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::openapi::OpenApi;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::token::Token;
use crate::life::{Kind, Lives, Origin, Outcome, PartStatus, Refusal};
use crate::log::in_span;
use crate::metrics::{DECODE, PipelineStatus};
use crate::pipeline_file::Span;
use crate::service::Parts;
use crate::tap::{Filter, ROWS_PER_SECOND_MAX, Verdict};

/// How long a client may take to send a component: 32 MiB at 5 Mbit/s.
const UPLOAD_TIME: Duration = Duration::from_secs(60);

/// What the handlers share.
#[derive(Clone)]
struct Api {
    pipeline: Arc<str>,
    parts: Parts,
    token: Token,
    /// One upload at a time, because each is in memory as a whole.
    uploads: Arc<tokio::sync::Semaphore>,
}

/// What is wrong with a request.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// In a sentence.
    pub error: String,
}

/// Whether a pipeline does what it should.
#[derive(Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether all of its lanes are ready.
    pub ready: bool,
    /// Why not, in a sentence for each lane.
    pub why: Vec<String>,
}

/// What became of a change.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// What became of it.
    pub outcome: Outcome,
    /// SHA-256 of the version that it is about.
    pub sha256: String,
}

/// How a component is deployed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeployOptions {
    /// Try it for this time beside the version that decides, such as `10m`, instead of putting it in its place.
    #[param(value_type = Option<String>)]
    shadow: Option<Span>,
}

/// The OpenAPI document.
pub fn document() -> OpenApi {
    describe(open_api_router().into_openapi())
}

/// All routes.
pub(super) fn router(pipeline: String, parts: Parts, token: Token) -> Router {
    let api =
        Api { pipeline: pipeline.into(), parts, token, uploads: Arc::new(tokio::sync::Semaphore::new(1)) };
    let (router, open_api) = open_api_router().split_for_parts();
    let document = describe(open_api);
    router
        .route("/api/v1/openapi.json", routing::get(|| async { Json(document) }))
        .route("/api/v1/tap", routing::get(tap))
        .route("/metrics", routing::get(metrics))
        .route("/livez", routing::get(|| async { "ok\n" }))
        .route("/readyz", routing::get(readyz))
        .fallback(|| async {
            fault(StatusCode::NOT_FOUND, "there is nothing here; `/api/v1/openapi.json` says what there is")
        })
        .with_state(api)
}

fn open_api_router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(pipeline))
        .routes(routes!(rules))
        .routes(routes!(rule))
        .routes(routes!(deploy))
        .routes(routes!(promote))
        .routes(routes!(rollback))
        .routes(routes!(exchanges))
        .routes(routes!(exchange))
        .routes(routes!(deploy_adapter))
        .routes(routes!(promote_adapter))
        .routes(routes!(rollback_adapter))
}

fn describe(mut document: OpenApi) -> OpenApi {
    document.info = utoipa::openapi::InfoBuilder::new()
        .title("Tidegate")
        .version("v1")
        .description(Some(
            "The rules of a running pipeline, the adapters of its exchanges, and how they are replaced. What changes something needs the header \
             `Authorization: Bearer TOKEN`, with the token in the file that `http.token_file` of the pipeline file names, \
             or else in `tokens/PIPELINE` of the state folder.",
        ))
        .build();
    document
}

/// For Prometheus.
async fn metrics(State(api): State<Api>) -> Response {
    let parts = &api.parts;
    let mut all = parts.rules.status();
    all.extend(parts.adapters.status());
    let text = parts.metrics.text(&parts.status(), &all);
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

/// Rows as they go by, a line of JSON each, until the client goes.
async fn tap(
    State(api): State<Api>,
    headers: HeaderMap,
    Query(wanted): Query<Vec<(String, String)>>,
) -> Result<Response, Fault> {
    authorize(&api, &headers)?;
    let filter = filter(&api, wanted).map_err(|sentence| fault(StatusCode::BAD_REQUEST, sentence))?;
    let Some(tap) = api.parts.taps.open(filter.rule.clone()) else {
        let sentence = "four look at the rows of this pipeline already, which is the most";
        return Err(fault(StatusCode::TOO_MANY_REQUESTS, sentence));
    };
    let (sender, mut lines) = tokio::sync::mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        tap.follow(&filter, |text| match text.is_empty() {
            true => !sender.is_closed(),
            false => sender.blocking_send(Ok::<_, Infallible>(Bytes::from(text))).is_ok(),
        });
    });
    let body = Body::from_stream(futures_util::stream::poll_fn(move |context| lines.poll_recv(context)));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Which rows a client wants to see, from the pairs of its query; every `where` is a column and a value.
fn filter(api: &Api, wanted: Vec<(String, String)>) -> Result<Filter, String> {
    let mut filter = Filter { rows_per_second: ROWS_PER_SECOND_MAX, ..Filter::default() };
    for (key, value) in wanted {
        match &*key {
            "rule" => {
                if value != DECODE {
                    api.parts.rules.status_of(&value).map_err(|refusal| refusal.to_string())?;
                }
                filter.rule = Some(value);
            }
            "verdict" => {
                let verdict = Verdict::from_str(&value, false);
                filter.verdict = Some(verdict.map_err(|_| {
                    format!("the verdict `{value}` is none: expected `kept`, `rejected` or `dropped`")
                })?);
            }
            "reason" => filter.reason = Some(value),
            "where" => {
                let (column, value) =
                    value.split_once('=').ok_or_else(|| format!("`{value}` is not `column=value`"))?;
                filter.columns.push((column.into(), value.into()));
            }
            "rows_per_second" => {
                let rows = value.parse().ok().filter(|rows| (1..=ROWS_PER_SECOND_MAX).contains(rows));
                filter.rows_per_second = rows.ok_or_else(|| {
                    format!("`rows_per_second` must be 1 to {ROWS_PER_SECOND_MAX}, but is `{value}`")
                })?;
            }
            _ => {
                return Err(format!(
                    "`{key}` means nothing here; `rule`, `verdict`, `reason`, `where` and `rows_per_second` do"
                ));
            }
        }
    }
    Ok(filter)
}

/// Whether all lanes do what they should, and why not.
async fn readyz(State(api): State<Api>) -> Response {
    let why = api.parts.status().obstacles();
    let status = if why.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready: why.is_empty(), why })).into_response()
}

/// The pipeline that answers here
#[utoipa::path(get, path = "/api/v1/pipeline", responses((status = 200, body = PipelineStatus)))]
async fn pipeline(State(api): State<Api>) -> Json<PipelineStatus> {
    Json(api.parts.status())
}

/// The rules, their versions, and what these have decided
#[utoipa::path(get, path = "/api/v1/rules", responses((status = 200, body = Vec<PartStatus>)))]
async fn rules(State(api): State<Api>) -> Json<Vec<PartStatus>> {
    Json(api.parts.rules.status())
}

/// A rule, its versions, and what these have decided
#[utoipa::path(
    get,
    path = "/api/v1/rules/{rule}",
    params(("rule" = String, Path, description = "The rule's name in the pipeline file")),
    responses((status = 200, body = PartStatus), (status = 404, body = Problem))
)]
async fn rule(State(api): State<Api>, Path(rule): Path<String>) -> Result<Json<PartStatus>, Fault> {
    api.parts.rules.status_of(&rule).map(Json).map_err(refused)
}

/// Put a component in the place of a rule's current version, or try it beside that
///
/// The component is checked, and its fixtures are run, before anything changes. The version is on probation at first.
#[utoipa::path(
    post,
    path = "/api/v1/rules/{rule}/versions",
    params(("rule" = String, Path, description = "The rule's name in the pipeline file"), DeployOptions),
    request_body(content = Vec<u8>, content_type = "application/wasm", description = "The component"),
    responses(
        (status = 200, body = Change, description = "Checked and accepted; the lanes follow with their next batches"),
        (status = 401, body = Problem, description = "Without the token of this pipeline"),
        (status = 404, body = Problem),
        (status = 408, body = Problem, description = "The component did not come in time"),
        (status = 409, body = Problem, description = "Another change is under way"),
        (status = 413, body = Problem, description = "The component is larger than the rule's `limits.file`"),
        (status = 422, body = Problem, description = "The component is no such rule, or fails its fixtures"),
        (status = 507, body = Problem, description = "The state folder cannot be written")
    )
)]
async fn deploy(
    State(api): State<Api>,
    Path(rule): Path<String>,
    options: Options,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Change>, Fault> {
    put(&api, api.parts.rules.clone(), rule, options, &headers, body).await
}

/// Put the candidate that was tried in the place of the current version
#[utoipa::path(
    post,
    path = "/api/v1/rules/{rule}/promote",
    params(("rule" = String, Path, description = "The rule's name in the pipeline file")),
    responses(
        (status = 200, body = Change),
        (status = 401, body = Problem, description = "Without the token of this pipeline"),
        (status = 404, body = Problem),
        (status = 409, body = Problem, description = "There is no candidate, or it has failed"),
        (status = 507, body = Problem, description = "The state folder cannot be written")
    )
)]
async fn promote(
    State(api): State<Api>,
    Path(rule): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Change>, Fault> {
    authorize(&api, &headers)?;
    change(move || api.parts.rules.promote(&rule).map(|sha256| (Outcome::Deployed, sha256))).await
}

/// Put the version before the current one in its place again
#[utoipa::path(
    post,
    path = "/api/v1/rules/{rule}/rollback",
    params(("rule" = String, Path, description = "The rule's name in the pipeline file")),
    responses(
        (status = 200, body = Change),
        (status = 401, body = Problem, description = "Without the token of this pipeline"),
        (status = 404, body = Problem),
        (status = 409, body = Problem, description = "There is no version to go back to"),
        (status = 507, body = Problem, description = "The state folder cannot be written")
    )
)]
async fn rollback(
    State(api): State<Api>,
    Path(rule): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Change>, Fault> {
    authorize(&api, &headers)?;
    change(move || api.parts.rules.rollback(&rule).map(|sha256| (Outcome::Deployed, sha256))).await
}

/// The exchanges, and the versions of their adapters
#[utoipa::path(get, path = "/api/v1/exchanges", responses((status = 200, body = Vec<PartStatus>)))]
async fn exchanges(State(api): State<Api>) -> Json<Vec<PartStatus>> {
    Json(api.parts.adapters.status())
}

/// An exchange, and the versions of its adapter
#[utoipa::path(
    get,
    path = "/api/v1/exchanges/{exchange}",
    params(("exchange" = String, Path, description = "The exchange's name in the pipeline file: `name`, or else `exchange`")),
    responses((status = 200, body = PartStatus), (status = 404, body = Problem))
)]
async fn exchange(State(api): State<Api>, Path(exchange): Path<String>) -> Result<Json<PartStatus>, Fault> {
    api.parts.adapters.status_of(&exchange).map(Json).map_err(refused)
}

/// Put a component in the place of an adapter's current version, or try it beside that
///
/// The component is checked before anything changes. The version is on probation at first.
#[utoipa::path(
    post,
    path = "/api/v1/exchanges/{exchange}/versions",
    params(("exchange" = String, Path, description = "The exchange's name in the pipeline file: `name`, or else `exchange`"), DeployOptions),
    request_body(content = Vec<u8>, content_type = "application/wasm", description = "The component"),
    responses(
        (status = 200, body = Change, description = "Checked and accepted; its thread follows within a second"),
        (status = 401, body = Problem, description = "Without the token of this pipeline"),
        (status = 404, body = Problem),
        (status = 408, body = Problem, description = "The component did not come in time"),
        (status = 409, body = Problem, description = "Another change is under way"),
        (status = 413, body = Problem, description = "The component is larger than the exchange's `limits.file`"),
        (status = 422, body = Problem, description = "The component is no such adapter"),
        (status = 507, body = Problem, description = "The state folder cannot be written")
    )
)]
async fn deploy_adapter(
    State(api): State<Api>,
    Path(exchange): Path<String>,
    options: Options,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Change>, Fault> {
    put(&api, api.parts.adapters.clone(), exchange, options, &headers, body).await
}

/// Put the candidate that was tried in the place of the current version
#[utoipa::path(
    post,
    path = "/api/v1/exchanges/{exchange}/promote",
    params(("exchange" = String, Path, description = "The exchange's name in the pipeline file: `name`, or else `exchange`")),
    responses(
        (status = 200, body = Change),
        (status = 401, body = Problem, description = "Without the token of this pipeline"),
        (status = 404, body = Problem),
        (status = 409, body = Problem, description = "There is no candidate, or it has failed"),
        (status = 507, body = Problem, description = "The state folder cannot be written")
    )
)]
async fn promote_adapter(
    State(api): State<Api>,
    Path(exchange): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Change>, Fault> {
    authorize(&api, &headers)?;
    change(move || api.parts.adapters.promote(&exchange).map(|sha256| (Outcome::Deployed, sha256))).await
}

/// Put the version before the current one in its place again
#[utoipa::path(
    post,
    path = "/api/v1/exchanges/{exchange}/rollback",
    params(("exchange" = String, Path, description = "The exchange's name in the pipeline file: `name`, or else `exchange`")),
    responses(
        (status = 200, body = Change),
        (status = 401, body = Problem, description = "Without the token of this pipeline"),
        (status = 404, body = Problem),
        (status = 409, body = Problem, description = "There is no version to go back to"),
        (status = 507, body = Problem, description = "The state folder cannot be written")
    )
)]
async fn rollback_adapter(
    State(api): State<Api>,
    Path(exchange): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Change>, Fault> {
    authorize(&api, &headers)?;
    change(move || api.parts.adapters.rollback(&exchange).map(|sha256| (Outcome::Deployed, sha256))).await
}

/// How a component is deployed, as far as it can be read.
type Options = Result<Query<DeployOptions>, axum::extract::rejection::QueryRejection>;

/// Takes a component and deploys it.
async fn put<K: Kind>(
    api: &Api,
    lives: Arc<Lives<K>>,
    name: String,
    options: Options,
    headers: &HeaderMap,
    body: Body,
) -> Result<Json<Change>, Fault> {
    authorize(api, headers)?;
    let Query(DeployOptions { shadow }) =
        options.map_err(|error| fault(StatusCode::BAD_REQUEST, error.body_text()))?;
    let limit_bytes = lives.file_limit_bytes(&name).map_err(refused)?;
    let Ok(upload) = Arc::clone(&api.uploads).try_acquire_owned() else {
        return Err(refused(Refusal::Busy(K::WHAT)));
    };
    let too_large = || {
        let what = K::WHAT;
        fault(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the component has more than `limits.file` ({limit_bytes} bytes) of the {what} `{name}`"),
        )
    };
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit_bytes) {
        return Err(too_large());
    }
    let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
    let bytes = match tokio::time::timeout(UPLOAD_TIME, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) if is_too_large(&error) => return Err(too_large()),
        Ok(Err(_)) => return Err(fault(StatusCode::BAD_REQUEST, "the component did not come whole")),
        Err(_) => {
            let seconds = UPLOAD_TIME.as_secs();
            let sentence = format!("the component did not come within {seconds} s");
            return Err(fault(StatusCode::REQUEST_TIMEOUT, sentence));
        }
    };
    change(move || {
        let shadow = shadow.map(|span| span.0);
        let result = lives.deploy(&name, bytes.into(), Origin::Api, shadow);
        drop(upload);
        result
    })
    .await
}

/// Compiling takes long, and must not keep other answers waiting.
async fn change(
    work: impl FnOnce() -> Result<(Outcome, Arc<str>), Refusal> + Send + 'static,
) -> Result<Json<Change>, Fault> {
    match tokio::task::spawn_blocking(in_span(work)).await {
        Ok(Ok((outcome, sha256))) => Ok(Json(Change { outcome, sha256: sha256.to_string() })),
        Ok(Err(refusal)) => Err(refused(refusal)),
        Err(_) => Err(fault(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the change ended by a defect of tidegate; please report what it has logged",
        )),
    }
}

fn authorize(api: &Api, headers: &HeaderMap) -> Result<(), Fault> {
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .map(str::trim);
    match shown {
        Some(shown) if api.token.is(shown) => Ok(()),
        Some(_) => {
            let sentence = format!("this is not the token of the pipeline `{}`", api.pipeline);
            Err(fault(StatusCode::UNAUTHORIZED, sentence))
        }
        None => Err(fault(
            StatusCode::UNAUTHORIZED,
            format!(
                "whoever changes something of the pipeline `{}` must show its token: `Authorization: Bearer TOKEN`",
                api.pipeline
            ),
        )),
    }
}

/// Why a request is not done.
struct Fault {
    status: StatusCode,
    sentence: String,
}

fn fault(status: StatusCode, sentence: impl Into<String>) -> Fault {
    Fault { status, sentence: sentence.into() }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let Fault { status, sentence } = self;
        let mut response = (status, Json(Problem { error: sentence })).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

fn refused(refusal: Refusal) -> Fault {
    let status = match &refusal {
        Refusal::Unknown { .. } => StatusCode::NOT_FOUND,
        Refusal::Busy(_) | Refusal::NotNow(_) => StatusCode::CONFLICT,
        Refusal::Wrong(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::Unkept(_) => StatusCode::INSUFFICIENT_STORAGE,
    };
    fault(status, refusal.to_string())
}

/// axum hides the type of this error behind its own.
fn is_too_large(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit exceeded") {
            return true;
        }
        cause = error.source();
    }
    false
}
