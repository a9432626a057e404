// Package signtest is the suite that every sign.Driver passes.
package signtest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
)

// Run runs the suite. open makes a driver over storage that belongs to the test
// it is given: called twice in one test, both drivers see the same keys.
func Run(t *testing.T, open func(t testing.TB) sign.Driver) {
	for _, alg := range []sign.Algorithm{sign.Ed25519, sign.ECDSAP256} {
		t.Run("KeySurvivesReopening/"+string(alg), func(t *testing.T) { survives(t, open, alg) })
	}
	t.Run("ExistingKeyIsNeverOverwritten", func(t *testing.T) { oneWinner(t, open) })
	t.Run("MissingKeyIsNotFound", func(t *testing.T) {
		if _, err := sign.Open(t.Context(), open(t), "missing"); !errors.Is(err, fault.CodeKeyNotFound) {
			t.Errorf("missing key: %v, want %s", err, fault.CodeKeyNotFound)
		}
	})
	t.Run("CanceledContextCreatesNothing", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := sign.Create(ctx, open(t), "config", sign.Ed25519); err == nil {
			t.Error("created under a canceled context")
		}
		if _, err := sign.Open(t.Context(), open(t), "config"); !errors.Is(err, fault.CodeKeyNotFound) {
			t.Errorf("afterwards: %v, want %s", err, fault.CodeKeyNotFound)
		}
	})
}

func survives(t *testing.T, open func(t testing.TB) sign.Driver, alg sign.Algorithm) {
	made, err := sign.Create(t.Context(), open(t), "config", alg)
	if err != nil {
		t.Fatal(err)
	}
	again, err := sign.Open(t.Context(), open(t), "config")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := again.Sign(t.Context(), []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Public().Verify([]byte("message"), sig); err != nil || made.KeyID() != again.KeyID() || again.Algorithm() != alg {
		t.Errorf("the reopened key differs: %v", err)
	}
}

// oneWinner lets several drivers create one name at one time.
func oneWinner(t *testing.T, open func(t testing.TB) sign.Driver) {
	const racers = 6
	drivers := make([]sign.Driver, racers)
	for i := range drivers {
		drivers[i] = open(t)
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		made []string // guarded by mu
	)
	for _, d := range drivers {
		wg.Go(func() {
			s, err := sign.Create(context.Background(), d, "config", sign.Ed25519)
			if err != nil {
				if !errors.Is(err, fault.CodeKeyExists) {
					t.Errorf("losing creator: %v, want %s", err, fault.CodeKeyExists)
				}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			made = append(made, s.KeyID())
		})
	}
	wg.Wait()
	if len(made) != 1 {
		t.Fatalf("%d creators won, want 1", len(made))
	}
	s, err := sign.Open(t.Context(), open(t), "config")
	if err != nil || s.KeyID() != made[0] {
		t.Errorf("the stored key is not the winner's: %v", err)
	}
}
