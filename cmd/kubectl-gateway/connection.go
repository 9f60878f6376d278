package main

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// kubernetes returns the connection that the flags and the kubeconfig describe.
func (a *app) kubernetes() (*rest.Config, kubernetes.Interface, error) {
	config, err := a.flags.ToRESTConfig()
	if err != nil {
		return nil, nil, api.WithHint(fmt.Errorf("reading the kubeconfig: %w", err),
			"check --kubeconfig, $KUBECONFIG and --context; 'kubectl config get-contexts' lists contexts")
	}
	client, err := newClient(config)
	return config, client, err
}

// newClient returns a client that asks for objects in the form that costs both ends least.
func newClient(config *rest.Config) (kubernetes.Interface, error) {
	config = rest.CopyConfig(config)
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing the connection: %w", err)
	}
	return client, nil
}

// quiet returns config and a client without the server's warnings, which would tear a
// live view apart.
func quiet(config *rest.Config) (*rest.Config, kubernetes.Interface, error) {
	config = rest.CopyConfig(config)
	config.WarningHandler, config.WarningHandlerWithContext = rest.NoWarnings{}, nil
	client, err := newClient(config)
	return config, client, err
}

// namespace returns the namespace of the command line, the kubeconfig or the pod, in
// this order.
func (a *app) namespace() (string, error) {
	namespace, _, err := a.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return "", fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return namespace, nil
}
