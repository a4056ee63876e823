# The image of one replica: the static binary, the certificates that it trusts, and nothing else. The binary is the same,
# byte for byte, from the same commit; `make image` and `make push` pass the version and the commit's date.

# golang:1.26.8-bookworm; builds for other platforms run here too, as Go cross-compiles.
FROM --platform=$BUILDPLATFORM golang:1.26.8-bookworm@sha256:a688600ca24f8a4d3ca77f95b0dd40704a9fc787c826660eb7ba0b641b8b175d AS build
WORKDIR /src
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/forgewire ./cmd/forgewire

FROM scratch
ARG VERSION=dev REVISION=unknown
LABEL org.opencontainers.image.title="Forgewire" \
      org.opencontainers.image.description="Push, cache and serve at the edge, with Postgres as the only thing it must have" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/forgewire /forgewire
# Nobody by number, which Kubernetes' runAsNonRoot can check.
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
# Alive, not ready: a database that is away is no reason to restart replicas that hold connections.
HEALTHCHECK --interval=15s --timeout=3s --start-period=10s CMD ["/forgewire", "health", "--live"]
ENTRYPOINT ["/forgewire"]
CMD ["serve"]
