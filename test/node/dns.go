//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	dnsPort       = 53
	clusterDomain = "cluster.local"

	// dnsPatience bounds the questions to the API server about one name. It is
	// less than resolvers have.
	dnsPatience = 3 * time.Second
)

// errNoName is the answer that there is no such name.
var errNoName = errors.New("no such name")

// dns tells pods the addresses behind Services: without kube-proxy nobody
// answers at a cluster IP, so each Service is told as a headless one is. It
// knows no other names.
type dns struct {
	connection net.PacketConn
	client     *kubernetes.Clientset
	serving    sync.WaitGroup
	stop       context.CancelFunc
}

func startDNS(ctx context.Context, address string, client *kubernetes.Clientset) (*dns, error) {
	var config net.ListenConfig
	connection, err := config.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	d := &dns{connection: connection, client: client}
	ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx)) // which bounds the start
	d.serving.Go(func() { d.serve(ctx) })
	return d, nil
}

func (d *dns) close() error {
	d.stop()
	err := d.connection.Close()
	d.serving.Wait()
	return err
}

func (d *dns) serve(ctx context.Context) {
	buffer := make([]byte, 4096)
	for {
		n, from, err := d.connection.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a pod that is gone
		}
		query := append([]byte(nil), buffer[:n]...)
		d.serving.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, dnsPatience)
			defer cancel()
			if answer, err := d.answer(ctx, query); err == nil {
				_, _ = d.connection.WriteTo(answer, from) // who got none asks again
			}
		})
	}
}

// answer returns the answer to a query; an error is that it is none.
func (d *dns) answer(ctx context.Context, query []byte) ([]byte, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil {
		return nil, err
	}
	question, err := parser.Question()
	if err != nil {
		return nil, err
	}
	addresses, err := d.lookup(ctx, question.Name.String())
	message := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: header.ID, Response: true, Authoritative: true,
			RecursionDesired: header.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{question},
	}
	switch {
	case errors.Is(err, errNoName):
		message.RCode = dnsmessage.RCodeNameError
	case err != nil:
		message.RCode = dnsmessage.RCodeServerFailure
	case question.Type == dnsmessage.TypeA:
		for _, address := range addresses {
			message.Answers = append(message.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 1},
				Body:   &dnsmessage.AResource{A: address.As4()},
			})
		}
	}
	return message.Pack()
}

// lookup returns the addresses behind a Service, of what is ready.
func (d *dns) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	service, namespace, err := serviceOf(name)
	if err != nil {
		return nil, err
	}
	if _, err := d.client.CoreV1().Services(namespace).Get(ctx, service, metav1.GetOptions{}); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, errNoName
		}
		return nil, err
	}
	slices, err := d.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + service,
	})
	if err != nil {
		return nil, err
	}
	var addresses []netip.Addr
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready != nil && !*endpoint.Conditions.Ready {
				continue
			}
			for _, text := range endpoint.Addresses {
				address, err := netip.ParseAddr(text)
				if err != nil || !address.Is4() {
					return nil, fmt.Errorf("endpoint %q of %s is no IPv4 address", text, name)
				}
				addresses = append(addresses, address)
			}
		}
	}
	return addresses, nil
}

// serviceOf returns the Service that a name is of.
func serviceOf(name string) (service, namespace string, err error) {
	inCluster, found := strings.CutSuffix(strings.ToLower(name), ".svc."+clusterDomain+".")
	labels := strings.Split(inCluster, ".")
	if !found || len(labels) != 2 || labels[0] == "" || labels[1] == "" {
		return "", "", errNoName
	}
	return labels[0], labels[1], nil
}
