# The gateway's image for those who build with a container engine; "make image"
# gives the same content without one.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETARCH VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=linux GOARCH=$TARGETARCH go build -trimpath \
    -ldflags "-s -w -X github.com/kubectl-gateway/kubectl-gateway/internal/version.stamp=$VERSION" \
    -o /kube-gateway ./cmd/kube-gateway

FROM scratch
COPY --from=build /kube-gateway /kube-gateway
ENTRYPOINT ["/kube-gateway"]
CMD ["supervise"]
