# The image of the bridge: one static binary and the CA certificates.
#
#   make image                    with buildah, into bin/image/
#   docker build --build-arg VERSION=v0.1.0 --build-arg COMMIT=$(git rev-parse HEAD) -t bridge .
#   docker buildx build --platform linux/amd64,linux/arm64 …
#
# The same sources, VERSION, COMMIT and GO_IMAGE give the same binary: nothing
# in it depends on time, place or version control. `make image` gives the same
# digest too.

# Give it with its digest (…@sha256:…) where a build must be repeatable.
ARG GO_IMAGE=docker.io/library/golang:1.26.8-trixie

# Runs on the machine that builds, and cross-compiles to the one asked for.
FROM --platform=${BUILDPLATFORM} ${GO_IMAGE} AS build
WORKDIR /src
# Go's own settings, unset unless given: a proxy, or caches that the builder has
# mounted to lend.
ARG GOPROXY
ARG GOMODCACHE
ARG GOCACHE

# Modules by themselves, so that a change of the code does not fetch them again.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod \
    go mod download

COPY cmd/ cmd/
COPY internal/ internal/
COPY pkg/ pkg/
ARG VERSION=dev
ARG COMMIT=unknown
ARG TARGETOS
ARG TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -buildvcs=false -ldflags="-s -w -X main.version=${VERSION} -X main.commit=${COMMIT}" -o /out/bridge ./cmd/bridge

FROM scratch
ARG VERSION=dev
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="crbridge" \
      org.opencontainers.image.description="Every change of your Kubernetes custom resources, as a CloudEvent in NATS" \
      org.opencontainers.image.source="https://github.com/crbridge/crbridge" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# What the umask of the checkout was does not matter.
COPY --chmod=0644 LICENSE /LICENSE
COPY --from=build /out/bridge /bridge
# A number, as runAsNonRoot cannot judge a name; 65532 is "nonroot" elsewhere.
USER 65532:65532
# 8080: metrics, status; 8081: health.
EXPOSE 8080 8081
ENTRYPOINT ["/bridge"]
CMD ["run", "--config", "/etc/crbridge/config.yaml"]
