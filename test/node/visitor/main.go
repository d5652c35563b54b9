//go:build linux

// Visitor is what the tests of package node run in pods. It prints the file
// that its argument names, asks the API server who it is, as any client in a
// cluster does, publishes that to NATS at NATS_URL, and waits for SIGTERM.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/nats-io/nats.go"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "visitor:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fmt.Printf("file: %s\n", content)

	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	who := review.Status.UserInfo.Username
	fmt.Printf("user: %s\n", who)

	connection, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	if err := connection.Publish("visits", []byte(who)); err != nil {
		return err
	}
	if err := connection.Drain(); err != nil {
		return err
	}
	<-ctx.Done()
	fmt.Println("told to end")
	return nil
}
