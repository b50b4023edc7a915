# syntax=docker/dockerfile:1
# One image for all services: the program, the rules and adapters, and the four pipeline files.
#
#     docker build --tag tidegate .
#     docker run --rm tidegate check /etc/tidegate/pipelines/validate.yaml

FROM rust:1.95-bookworm AS builder
# The client of Kafka is compiled from its source in C; it takes TLS from the system's OpenSSL.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libssl-dev make pkg-config \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add wasm32-unknown-unknown
WORKDIR /source
COPY . .
# The caches are no part of the image, so what is kept is copied out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo xtask guests --out /built/guests \
    && cargo build --locked --release --package tidegate --bin tidegate \
    && cp target/release/tidegate /built/tidegate

FROM debian:bookworm-slim
# Certificates for exchanges, and the library that the client of Kafka is linked with. The user has a number that is the
# same everywhere, because volumes and secrets go by it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libssl3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 tidegate \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/tidegate --create-home --shell /usr/sbin/nologin tidegate
COPY --from=builder /built/tidegate /usr/local/bin/tidegate
COPY --from=builder /built/guests /usr/local/share/tidegate/guests
COPY pipelines/ingest.yaml pipelines/validate.yaml pipelines/timescale.yaml pipelines/clickhouse.yaml \
    /etc/tidegate/pipelines/
# Compiled components are kept with the state: a restart need not compile them again.
ENV TIDEGATE_GUESTS=/usr/local/share/tidegate/guests \
    TIDEGATE_STATE=/var/lib/tidegate \
    XDG_CACHE_HOME=/var/lib/tidegate/cache
VOLUME /var/lib/tidegate
WORKDIR /var/lib/tidegate
# A number, because Kubernetes cannot see that a name is not root.
USER 10001:10001
ENTRYPOINT ["tidegate"]
# No HEALTHCHECK: which port to ask depends on the pipeline, so docker-compose.yml says it for each service.
CMD ["--help"]
