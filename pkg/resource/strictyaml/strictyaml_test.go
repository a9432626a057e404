package strictyaml

import (
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
)

type config struct {
	Listen string        `json:"listen" required:"true" format:"hostport" doc:"Address."`
	Grace  time.Duration `json:"grace,omitempty" min:"1s" doc:"Time to drain."`
	Level  string        `json:"level,omitempty" enum:"debug,info" doc:"Level."`
	TLS    *struct {
		CertFile string `json:"certFile" required:"true" doc:"File."`
	} `json:"tls,omitempty" doc:"Certificate."`
	Hubs []string `json:"hubs,omitempty" doc:"Hubs."`
}

func TestUnmarshalFillsFieldsAndKeepsDefaults(t *testing.T) {
	cfg := config{Grace: time.Minute, Level: "info"}
	err := Unmarshal("hub.yaml", []byte("listen: 127.0.0.1:8443\ntls: {certFile: /a/b}\nhubs:\n  - a:1\n"), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Listen != "127.0.0.1:8443" || cfg.Grace != time.Minute || cfg.Level != "info" || cfg.TLS.CertFile != "/a/b" || len(cfg.Hubs) != 1 {
		t.Errorf("%+v", cfg)
	}
	if err := Unmarshal("hub.yaml", []byte("listen: a:1\ngrace: 1m30s"), &cfg); err != nil || cfg.Grace != 90*time.Second {
		t.Errorf("%v, %v", cfg.Grace, err)
	}
}

func TestMistakesNameFileLineColumnAndTheNearestName(t *testing.T) {
	for text, want := range map[string][]string{
		"listen: a:1\ngrase: 5s\n":              {`hub.yaml:2:1: grase: unknown field "grase" in the document (did you mean grace?)`},
		"listen: a:1\ngrace: 5\nlevel: dbug\n":  {"hub.yaml:2:8: grace: expected duration like 250ms, got number 5", "hub.yaml:3:8: level: \"dbug\" is not known here (did you mean debug?"},
		"listen: a:1\nlisten: b:1\n":            {`hub.yaml:2:1: listen: key "listen" is already on line 1`},
		"listen: a:1\ntls:\n  certfile: x\n":    {"hub.yaml:3:3: tls.certfile: unknown field", "did you mean certFile?"},
		"":                                      {"hub.yaml:1:1: listen: listen is missing"},
		"listen: a\n":                           {"hub.yaml:1:9: listen: \"a\" has no port"},
		"listen: a:1\n---\nlisten: b:1\n":       {"hub.yaml:3:1: the file has a second document"},
		"listen: [a\n":                          {"hub.yaml:1:1: not valid YAML"},
		"- a\n":                                 {"hub.yaml:1:1: expected mapping with listen"},
		"listen: \"a\\u202e:1\"\n":              {`hub.yaml:1:9: listen: "a\u202e:1" has character \u202e`},
		"a: &a [*a]\n":                          {"contains itself"},
		"listen: a:1\ngrace: 10ms\nhubs: a:1\n": {"hub.yaml:2:8: grace: 10ms is out of range (use a value of at least 1s)", "hub.yaml:3:7: hubs: expected list of strings"},
	} {
		before := config{Level: "info"}
		cfg := before
		err := Unmarshal("hub.yaml", []byte(text), &cfg)
		if fault.CodeOf(err) != fault.CodeConfig {
			t.Errorf("%q gives %v", text, err)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q gives\n%v\nwithout\n%s", text, err, w)
			}
		}
		if cfg.Listen != "" || cfg.Level != "info" {
			t.Errorf("%q changed the config: %+v", text, cfg)
		}
	}
}

func TestErrorfNamesThePlaceOfAField(t *testing.T) {
	var cfg config
	positions, err := Decode("hub.yaml", []byte("level: info\nlisten: a:1\n"), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = Errorf(positions, "listen", "use another port", "port %d is taken", 1)
	if got, want := err.Error(), "hub.yaml:2:9: listen: port 1 is taken (use another port)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
