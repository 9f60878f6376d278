# The images for those who build with a container engine; "make image plugin-image"
# gives the same content without one. The last stage is the gateway's; the
# plugin's, for watch in the cluster, is built with --target=plugin.
FROM --platform=$BUILDPLATFORM golang:1.27.3 AS build
ARG TARGETARCH VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=linux GOARCH=$TARGETARCH go build -trimpath \
    -ldflags "-s -w -X github.com/kubectl-gateway/kubectl-gateway/internal/version.stamp=$VERSION" \
    -o / ./cmd/kube-gateway ./cmd/kubectl-gateway

FROM scratch AS plugin
COPY --from=build --chmod=0711 /kubectl-gateway /kubectl-gateway
USER 65532
ENTRYPOINT ["/kubectl-gateway"]

FROM scratch
COPY --from=build --chmod=0711 /kube-gateway /kube-gateway
ENTRYPOINT ["/kube-gateway"]
CMD ["supervise"]
