package distribution

import (
	"slices"
	"unicode"
	"unicode/utf8"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

// Bounds of what a node says of itself.
const (
	maxCapabilities = 64
	maxLabels       = 64
	maxProtocols    = 8
	maxWord         = 128 // capability, label key, protocol, view
	maxText         = 256 // label value, build
	maxMessage      = 4 << 10
)

// checkHello holds a hello against its limits and the identity of the peer.
func checkHello(h *controlv1.Hello, peer Peer) error {
	if err := identity.ValidName(h.GetNode()); err != nil {
		return fault.New(fault.CodeHello, "hello: node: %w", err)
	}
	if !peer.ID.IsZero() && peer.ID.Name != h.GetNode() {
		return fault.New(fault.CodeHelloNode, "hello is for node %s, the certificate for %s", h.GetNode(), peer.ID)
	}
	switch {
	case len(h.GetCapabilities()) > maxCapabilities:
		return fault.New(fault.CodeHello, "hello: %d capabilities, more than %d", len(h.GetCapabilities()), maxCapabilities)
	case len(h.GetLabels()) > maxLabels:
		return fault.New(fault.CodeHello, "hello: %d labels, more than %d", len(h.GetLabels()), maxLabels)
	case len(h.GetProtocols()) > maxProtocols:
		return fault.New(fault.CodeHello, "hello: %d protocol revisions, more than %d", len(h.GetProtocols()), maxProtocols)
	}
	for _, c := range slices.Concat(h.GetCapabilities(), h.GetProtocols()) {
		if c == "" || !Plain(c, maxWord) {
			return fault.New(fault.CodeHello, "hello: capability or protocol %.64q is empty, too long or not printable", c)
		}
	}
	for k, v := range h.GetLabels() {
		if k == "" || !Plain(k, maxWord) || !Plain(v, maxText) {
			return fault.New(fault.CodeHello, "hello: label %.64q is empty, too long or not printable", k)
		}
	}
	if !Plain(h.GetBuild(), maxText) {
		return fault.New(fault.CodeHello, "hello: build is too long or not printable")
	}
	for name, p := range map[string]*controlv1.ResumePoint{"resume": h.GetResume(), "highest": h.GetHighest()} {
		if err := checkPoint(p); err != nil {
			return fault.New(fault.CodeHello, "hello: %s: %w", name, err)
		}
	}
	if !slices.Contains(h.GetProtocols(), Protocol) {
		return fault.New(fault.CodeProtocolVersion, "node %s speaks %q, this hub speaks %q", h.GetNode(), h.GetProtocols(), Protocol)
	}
	return nil
}

// checkPoint accepts an absent point, and one without a digest, which is only a
// place in the order.
func checkPoint(p *controlv1.ResumePoint) error {
	if !Plain(p.GetView(), maxWord) {
		return fault.New(fault.CodeHello, "view is too long or not printable")
	}
	if len(p.GetDigest()) == 0 {
		return nil
	}
	_, err := digest.HashOf(p.GetDigest())
	return err
}

// Plain tells whether s, from the other end of a stream, is short, valid, and safe to print.
func Plain(s string, limit int) bool {
	if len(s) > limit || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// pointOf gives a point's place in the order, and its content when it names one.
func pointOf(p *controlv1.ResumePoint) (at feed.Point, content digest.Hash, has bool) {
	at = feed.Point{Epoch: p.GetEpoch(), Version: p.GetVersion()}
	content, err := digest.HashOf(p.GetDigest())
	return at, content, err == nil
}
