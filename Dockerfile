# Two stages: the toolchain stays behind; the result is the binary on a slim Debian, without root.
#
# Where these images cannot be had: `--build-arg BASE=... RUST=...` names others, and `PROGRAM` an image that has the finished
# program at the same place, for the same Debian (the stage `build` is left out then, by BuildKit).
ARG BASE=debian:bookworm-slim
ARG RUST=rust:1.95-bookworm
ARG PROGRAM=build

FROM ${RUST} AS build
WORKDIR /src

# The dependencies alone: this layer is built again only when the manifest or the lock file changes. Targets that the
# manifest names for tests and benchmarks are left out, because their files are not here.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN awk '/^\[/ { skip = /^\[\[(test|bench)\]\]/ } !skip' Cargo.toml > Cargo.slim && mv Cargo.slim Cargo.toml \
 && mkdir src \
 && echo 'fn main() {}' > src/main.rs \
 && echo '' > src/lib.rs \
 && cargo build --release --locked --bin fcm-mqtt-bridge

COPY src src
# The placeholders above are newer than the copied files may be; cargo goes by time.
RUN touch src/main.rs src/lib.rs \
 && cargo build --release --locked --bin fcm-mqtt-bridge \
 && strip target/release/fcm-mqtt-bridge

FROM ${PROGRAM} AS program

FROM ${BASE}
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin bridge \
 && install -d -o bridge -g bridge /data /sim /passwords /etc/fcm-mqtt-bridge
COPY --from=program /src/target/release/fcm-mqtt-bridge /usr/local/bin/
USER bridge
WORKDIR /data
VOLUME /data
ENTRYPOINT ["fcm-mqtt-bridge"]
CMD ["run", "--config", "/etc/fcm-mqtt-bridge/bridge.toml"]
# Drains, for `limits.stop_seconds` at most.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=2s --timeout=2s --start-period=10m CMD ["fcm-mqtt-bridge", "health"]
