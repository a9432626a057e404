package consul

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/meshkit/meshkit/pkg/fault"
)

// httpsPort is where Consul agents speak https by convention.
const httpsPort = "8501"

// ParseURL gives the configuration that a URL names:
//
//	consul://127.0.0.1:8501/meshkit?dc=dc1&token-file=/etc/meshkit/consul.token
//
// The path is the prefix of the keys. The parameters:
//
//	dc, namespace, partition     where in Consul; default: the agent's own
//	token-file                   file with the ACL token, mode 0600; it is read again when it changes.
//	                             Without it, CONSUL_HTTP_TOKEN of the environment counts
//	tls                          true or false; default: true for port 8501 and when ca, cert or key is given
//	ca, cert, key, server-name   PEM files and the name for TLS
//	check-listen                 host:port where the agent's health check reaches this hub
//
// There is no parameter for the token itself: URLs end up in process lists.
func ParseURL(raw string) (Config, error) {
	bad := func(why string, args ...any) (Config, error) {
		return Config{}, fault.New(fault.CodeConfig, "store %q: %w", raw, fmt.Errorf(why, args...)).
			WithRemedy("Write it as consul://HOST:PORT/PREFIX?dc=NAME&token-file=PATH.")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return bad("%w", err)
	}
	if u.Scheme != "consul" {
		return bad("the scheme is %q, not consul", u.Scheme)
	}
	if u.User != nil {
		return bad("it has a user name or password; give an ACL token in a file, with token-file")
	}
	if u.Port() == "" || u.Hostname() == "" {
		return bad("it names no host and port")
	}
	if u.Fragment != "" {
		return bad("it has a fragment")
	}
	c := Config{Address: net.JoinHostPort(u.Hostname(), u.Port()), Prefix: strings.TrimSuffix(strings.TrimPrefix(u.Path, "/"), "/")}
	if why := prefixProblem(c.Prefix); why != "" {
		return bad("its prefix %q %s", c.Prefix, why)
	}
	var tls TLS
	settings := map[string]*string{
		"dc": &c.Datacenter, "namespace": &c.Namespace, "partition": &c.Partition, "token-file": &c.TokenFile,
		"ca": &tls.CA, "cert": &tls.Cert, "key": &tls.Key, "server-name": &tls.ServerName, "check-listen": &c.CheckListen,
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("%w", err)
	}
	useTLS := u.Port() == httpsPort || query.Has("ca") || query.Has("cert") || query.Has("key")
	for name, values := range query {
		if len(values) != 1 || values[0] == "" {
			return bad("parameter %q needs one value", name)
		}
		if name == "tls" {
			if useTLS, err = strconv.ParseBool(values[0]); err != nil {
				return bad("parameter tls is %q, not true or false", values[0])
			}
			continue
		}
		field, ok := settings[name]
		if !ok {
			return bad("unknown parameter %q; known are tls, %s", name, strings.Join(slices.Sorted(maps.Keys(settings)), ", "))
		}
		*field = values[0]
	}
	if (tls.Cert == "") != (tls.Key == "") {
		return bad("cert and key come together")
	}
	if useTLS {
		c.TLS = &tls
	} else if tls != (TLS{}) {
		return bad("tls=false, but there are settings for TLS")
	}
	return c, nil
}

// prefixProblem says why a prefix cannot be used; "" if it can. Consul's client takes
// some parts of a key for steps in a path, so that they would lead out of the prefix.
func prefixProblem(prefix string) string {
	if prefix == "" {
		return ""
	}
	if !utf8.ValidString(prefix) || strings.ContainsFunc(prefix, unicode.IsControl) {
		return "has control characters, or bytes that are not UTF-8"
	}
	for part := range strings.SplitSeq(prefix, "/") {
		switch part {
		case "":
			return "has an empty part"
		case ".", "..":
			return fmt.Sprintf("has the part %q", part)
		}
	}
	return ""
}

// Absolute gives the URL with the paths of its files made absolute against dir.
func Absolute(raw, dir string) (string, error) {
	if _, err := ParseURL(raw); err != nil {
		return "", err
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", err
	}
	q := u.Query()
	for _, name := range []string{"ca", "cert", "key", "token-file"} {
		if path := q.Get(name); path != "" && !filepath.IsAbs(path) {
			q.Set(name, filepath.Join(dir, path))
		}
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}
