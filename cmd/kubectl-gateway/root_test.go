package main

import (
	"net/http"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestStreamsOutliveRequests: --request-timeout is for requests that end by themselves. Watches,
// logs and commands have no deadline, and client-go knows of none.
func TestStreamsOutliveRequests(t *testing.T) {
	var bounded bool
	a := &app{IOStreams: genericiooptions.NewTestIOStreamsDiscard()}
	config := a.wrap(&rest.Config{Timeout: time.Hour, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		_, bounded = r.Context().Deadline()
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	})})
	client := must.Get(rest.HTTPClientFor(config))(t)
	for path, want := range map[string]bool{
		"/api/v1/pods": true, "/version": true,
		"/api/v1/pods?watch=true": false, "/api/v1/namespaces/a/pods/b/log?follow=true": false, "/api/v1/namespaces/a/pods/b/exec?command=x": false,
	} {
		response := must.Get(client.Get("http://server" + path))(t)
		_ = response.Body.Close()
		if bounded != want {
			t.Errorf("%s: deadline %t", path, bounded)
		}
	}
	if config.Timeout != 0 {
		t.Errorf("%+v", config)
	}
}
