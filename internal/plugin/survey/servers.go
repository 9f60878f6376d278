package survey

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/pages"
)

// Serving is what a pod does for the cluster itself.
type Serving string

const (
	// DNS is asked by all pods and nodes.
	DNS Serving = "DNS"
	// Webhook is asked by the API server, for admission or conversion.
	Webhook Serving = "webhook"
	// API is an API that the API server passes requests on to.
	API Serving = "API"
)

// Served is one kind of service that a pod does for its cluster.
type Served struct {
	Serving Serving
	// Names are those of webhooks, of custom resources, or of API versions.
	Names []string
	// Services, as NAMESPACE/NAME, lead to the pod.
	Services []string
	// Ports are the pod's own.
	Ports api.Ports
}

// call is a Service that the cluster itself connects to.
type call struct {
	serving       Serving
	name          string
	namespace, to string
	port          int32
}

// defaultCallPort is the port of a Service that an API object names without one.
const defaultCallPort = 443

// Serves returns what pod does for the cluster, one for each kind.
func (s *Survey) Serves(pod *corev1.Pod) []Served {
	var list []Served
	for _, service := range s.leading[pod.Namespace] {
		if !leads(service, pod) {
			continue
		}
		for _, c := range s.calls[service.Namespace+"/"+service.Name] {
			ports := targetPorts(service, c.port, pod)
			if len(ports) == 0 {
				continue
			}
			i := slices.IndexFunc(list, func(served Served) bool { return served.Serving == c.serving })
			if i < 0 {
				i, list = len(list), append(list, Served{Serving: c.serving})
			}
			list[i].Ports = api.NewPorts(slices.Concat(list[i].Ports, ports)...)
			list[i].Services = append(list[i].Services, service.Namespace+"/"+service.Name)
			if c.name != "" {
				list[i].Names = append(list[i].Names, c.name)
			}
		}
	}
	for i := range list {
		list[i].Names, list[i].Services = unique(list[i].Names), unique(list[i].Services)
	}
	slices.SortFunc(list, func(a, b Served) int { return cmp.Compare(a.Serving, b.Serving) })
	return list
}

// leads reports whether service, of the namespace of pod, selects it.
func leads(service *corev1.Service, pod *corev1.Pod) bool {
	return len(service.Spec.Selector) > 0 && labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels))
}

// targetPorts returns the TCP port of pod that a port of service leads to.
func targetPorts(service *corev1.Service, number int32, pod *corev1.Pod) api.Ports {
	for _, port := range service.Spec.Ports {
		if port.Port == number && isTCP(port.Protocol) {
			return targetPort(&port, pod)
		}
	}
	return nil
}

func targetPort(port *corev1.ServicePort, pod *corev1.Pod) api.Ports {
	target := port.TargetPort
	switch {
	case target.Type == intstr.String:
		for _, declared := range installed.TCPPorts(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)) {
			if declared.Name == target.StrVal {
				return onePort(declared.ContainerPort)
			}
		}
		return nil
	case target.IntVal != 0:
		return onePort(target.IntVal)
	}
	return onePort(port.Port)
}

func onePort(number int32) api.Ports {
	if number < 1 || number > 65535 {
		return nil
	}
	return api.Ports{{First: uint16(number), Last: uint16(number)}}
}

func isTCP(protocol corev1.Protocol) bool {
	return protocol == corev1.ProtocolTCP || protocol == ""
}

func unique(words []string) []string {
	slices.Sort(words)
	return slices.Compact(words)
}

// findServers takes the Services that lead to pods, and which of them the cluster itself
// connects to.
func (s *Survey) findServers(read *read) {
	s.leading, s.calls = map[string][]*corev1.Service{}, map[string][]call{}
	calls := slices.Clone(read.calls)
	for _, service := range read.services {
		if len(service.Spec.Selector) > 0 {
			s.leading[service.Namespace] = append(s.leading[service.Namespace], service)
		}
		if isDNS(service) {
			calls = append(calls, call{serving: DNS, namespace: service.Namespace, to: service.Name, port: dnsPort})
		}
	}
	for _, c := range calls {
		s.calls[c.namespace+"/"+c.to] = append(s.calls[c.namespace+"/"+c.to], c)
	}
	for _, unread := range []struct {
		err  error
		what string
	}{
		{read.servicesErr, "Services"},
		{read.callsErr, "webhooks and aggregated APIs"},
		{read.apiServerErr, "the API server's addresses"},
	} {
		if unread.err != nil {
			s.unknown = append(s.unknown, fmt.Sprintf("%s (%v)", unread.what, unread.err))
		}
	}
}

// readCalls returns the webhooks and the aggregated APIs of the cluster that are behind a
// Service. The error is that of the first list that could not be read.
func readCalls(ctx context.Context, client kubernetes.Interface) ([]call, error) {
	var mu sync.Mutex
	var calls []call
	add := func(serving Serving, name string, at *admissionv1.ServiceReference) {
		if at == nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, call{serving: serving, name: name, namespace: at.Namespace, to: at.Name, port: *cmp.Or(at.Port, new(int32(defaultCallPort)))})
	}
	errs := make([]error, 4)
	var reading sync.WaitGroup
	reading.Go(func() {
		errs[0] = pages.Each(ctx, metav1.ListOptions{}, client.AdmissionregistrationV1().ValidatingWebhookConfigurations().List, func(config *admissionv1.ValidatingWebhookConfiguration) {
			for _, w := range config.Webhooks {
				add(Webhook, w.Name, w.ClientConfig.Service)
			}
		})
	})
	reading.Go(func() {
		errs[1] = pages.Each(ctx, metav1.ListOptions{}, client.AdmissionregistrationV1().MutatingWebhookConfigurations().List, func(config *admissionv1.MutatingWebhookConfiguration) {
			for _, w := range config.Webhooks {
				add(Webhook, w.Name, w.ClientConfig.Service)
			}
		})
	})
	reading.Go(func() {
		errs[2] = plainPages(ctx, client, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", func(crd *plain) {
			add(Webhook, "conversion of "+crd.Metadata.Name, crd.Spec.Conversion.Webhook.ClientConfig.Service)
		})
	})
	reading.Go(func() {
		errs[3] = plainPages(ctx, client, "/apis/apiregistration.k8s.io/v1/apiservices", func(service *plain) {
			add(API, service.Metadata.Name, service.Spec.Service)
		})
	})
	reading.Wait()
	slices.SortFunc(calls, func(a, b call) int { return cmp.Or(cmp.Compare(a.serving, b.serving), strings.Compare(a.name, b.name)) })
	return calls, cmp.Or(errs...)
}

// plain is what matters of a CustomResourceDefinition (apiextensions.k8s.io/v1) and of an APIService
// (apiregistration.k8s.io/v1), which name Services as webhooks do. Their types would bring
// another client each.
type plain struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Conversion struct {
			Webhook struct {
				ClientConfig admissionv1.WebhookClientConfig `json:"clientConfig"`
			} `json:"webhook"`
		} `json:"conversion"`
		Service *admissionv1.ServiceReference `json:"service"`
	} `json:"spec"`
}

// plainPageSize bounds the objects of one answer: definitions are large.
const plainPageSize = "50"

// plainPages calls each for every object of the list at path. A list that the server does
// not offer is empty.
func plainPages(ctx context.Context, client kubernetes.Interface, path string, each func(*plain)) error {
	from := client.Discovery().RESTClient()
	if from == nil {
		return nil
	}
	for next := ""; ; {
		request := from.Get().AbsPath(path).SetHeader("Accept", runtime.ContentTypeJSON).Param("limit", plainPageSize)
		if next != "" {
			request = request.Param("continue", next)
		}
		text, err := request.Do(ctx).Raw()
		if apierrors.IsNotFound(err) {
			return nil
		}
		var list struct {
			Metadata metav1.ListMeta `json:"metadata"`
			Items    []plain         `json:"items"`
		}
		if err == nil {
			err = json.Unmarshal(text, &list)
		}
		if err != nil {
			return fmt.Errorf("listing %s: %w", path[strings.LastIndex(path, "/")+1:], err)
		}
		for i := range list.Items {
			each(&list.Items[i])
		}
		if next = list.Metadata.Continue; next == "" {
			return nil
		}
	}
}
