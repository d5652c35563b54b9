//go:build unix

package faults

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
)

// relay makes etcd's Unix socket a TCP address.
type relay struct {
	listener net.Listener
	stop     context.CancelFunc
	work     sync.WaitGroup
}

func startRelay(ctx context.Context, endpoint string) (*relay, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &relay{listener: listener, stop: stop}
	r.work.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(endpoint, "unix://"))
			if err != nil {
				_ = client.Close()
				continue
			}
			closeBoth := sync.OnceFunc(func() {
				_ = client.Close()
				_ = server.Close()
			})
			end := context.AfterFunc(ctx, closeBoth)
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				r.work.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					closeBoth()
					end()
				})
			}
		}
	})
	return r, nil
}

func (r *relay) close() error {
	r.stop()
	err := r.listener.Close()
	r.work.Wait()
	return err
}
