package consul

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

const (
	// serviceName is under which every hub is listed in Consul's catalog.
	serviceName = "meshhub"
	// checkEvery and checkTimeout are of the health check of the leader's loop.
	checkEvery   = time.Second
	checkTimeout = time.Second
)

// check is this driver's service instance in Consul, with the health check that
// its sessions depend on, and the port that answers it.
type check struct {
	serviceID string
	checkID   string
	server    *http.Server
	// registration is what Consul's agent was told.
	registration *api.AgentServiceRegistration
}

// register makes the service instance, or tells the agent of it again: Consul
// forgets it with a restored snapshot, and an agent with its data.
func (d *Driver) register(ctx context.Context, holder store.Holder) error {
	const doing = "register with Consul"
	d.mu.Lock()
	known := d.check
	d.mu.Unlock()
	if known != nil {
		if err := d.tell(ctx, known.registration); err != nil {
			return d.failure(ctx, doing, false, err)
		}
		return nil
	}
	listen := d.cfg.CheckListen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return fault.New(fault.CodeConfig, "%s: the health check cannot listen: %w", doing, err)
	}
	// A name for this run: a session of the run before must not come to life again.
	var nonce [8]byte
	_, _ = rand.Read(nonce[:]) // never fails
	id := "meshhub-" + d.cfg.Domain + "-" + holder.Name + "-" + hex.EncodeToString(nonce[:])
	c := &check{serviceID: id, checkID: "service:" + id}
	c.server = &http.Server{
		Handler: http.HandlerFunc(d.answerCheck), ReadHeaderTimeout: checkTimeout,
		WriteTimeout: 2 * checkTimeout, IdleTimeout: 10 * checkEvery, MaxHeaderBytes: 8 << 10,
	}
	reg := &api.AgentServiceRegistration{
		ID: id, Name: serviceName, Tags: []string{d.cfg.Domain}, Namespace: d.cfg.Namespace, Partition: d.cfg.Partition,
		Meta: map[string]string{"domain": d.cfg.Domain, "hub": holder.Name},
		Check: &api.AgentServiceCheck{
			CheckID: c.checkID, Name: "leader loop", HTTP: "http://" + lis.Addr().String() + "/",
			Interval: checkEvery.String(), Timeout: checkTimeout.String(),
			// This hub is alive: it need not wait for the first check to have a session.
			Status: api.HealthPassing, DeregisterCriticalServiceAfter: goneAfter.String(),
		},
	}
	if host, port, err := net.SplitHostPort(holder.Address); err == nil {
		reg.Address = host
		reg.Port, _ = strconv.Atoi(port)
	}
	c.registration = reg
	d.wg.Go(func() { _ = c.server.Serve(lis) })
	if err := d.tell(ctx, reg); err != nil {
		return errors.Join(d.failure(ctx, doing, false, err), c.server.Close())
	}
	d.mu.Lock()
	d.check = c
	d.mu.Unlock()
	return nil
}

// tell registers the service instance with the agent.
func (d *Driver) tell(ctx context.Context, reg *api.AgentServiceRegistration) error {
	ctx, cancel, err := d.call(ctx, "register with Consul", d.cfg.Timeout)
	if err != nil {
		return err
	}
	defer cancel()
	opts := api.ServiceRegisterOpts{Token: d.currentToken()}
	if err := d.client.Agent().ServiceRegisterOpts(reg, opts.WithContext(ctx)); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = opts.Token
	return nil
}

// answerCheck tells Consul whether the loop of the leader runs.
func (d *Driver) answerCheck(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	alive := d.alive
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	if err := alive(ctx); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// deregister takes the service instance out of Consul and stops answering.
func (d *Driver) deregister(ctx context.Context) {
	d.mu.Lock()
	c := d.check
	d.check = nil
	d.mu.Unlock()
	if c == nil {
		return
	}
	// Failing that, Consul forgets it after goneAfter.
	q := d.query(ctx, false)
	q.Namespace, q.Partition = d.cfg.Namespace, d.cfg.Partition
	_ = d.client.Agent().ServiceDeregisterOpts(c.serviceID, q)
	_ = c.server.Close()
}
