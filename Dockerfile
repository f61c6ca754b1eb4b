# The image of evenkeel: one binary on Google's distroless base for programs that are linked to glibc.
# How to build and run it, and how this file was tried: docs/container.md

FROM rust:1-bookworm AS build
WORKDIR /build

# Function names stay in the binary, for backtraces; file names and lines, most of its size, do not.
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo

# The dependencies alone, in a layer that lasts until one of them changes: with an empty program of
# the same name. The benches are named in Cargo.toml, so Cargo wants to see them.
COPY Cargo.toml Cargo.lock ./
COPY benches benches
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r src

# The program. `touch`: Cargo goes by times, and the empty one is newer than the files copied here.
# The demo holds config.example.yaml.
COPY config.example.yaml ./
COPY src src
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked \
    && target/release/evenkeel check --strict config.example.yaml

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="evenkeel" \
      org.opencontainers.image.description="A high-availability TCP and HTTP load balancer" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /build/target/release/evenkeel /usr/local/bin/evenkeel

# evenkeel.yaml is looked for in /etc/evenkeel: mount a folder there (docs/container.md).

# Documentation only: the listeners and admin.listen of your configuration count.
EXPOSE 8080 9901

# The base image says so, too; here it can be seen.
USER 65532:65532

# Drains: docker stop waits 10 s unless told otherwise, drain_timeout is 30 s unless configured.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/evenkeel", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/evenkeel"]
CMD ["run"]
