package schema

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

// boxSpec has one field of each type.
type boxSpec struct {
	Text  string            `json:"text" required:"true" doc:"Text." example:"hello"`
	Num   float64           `json:"num,omitempty" min:"0" max:"10" doc:"Number."`
	Small int32             `json:"small,omitempty" doc:"Integer of 32 bits."`
	Big   uint64            `json:"big,omitempty" doc:"Integer."`
	Flag  *bool             `json:"flag,omitempty" cap:"flags/v1" doc:"Boolean."`
	Wait  resource.Duration `json:"wait,omitempty" min:"1ms" max:"1h" default:"5s" doc:"Duration."`
	Mode  string            `json:"mode,omitempty" enum:"slow,fast" doc:"Enumeration."`
	Words []string          `json:"words,omitempty" maxItems:"3" unique:"true" doc:"Words."`
	Table map[string]string `json:"table,omitempty" doc:"Table."`
	Boxes []innerBox        `json:"boxes,omitempty" doc:"Boxes."`
}

type innerBox struct {
	Name string `json:"name" required:"true" format:"name" doc:"Name."`
	Deep *struct {
		Word string `json:"word,omitempty" doc:"Word."`
	} `json:"deep,omitempty" doc:"Deep."`
}

func TestExplainDescribesFieldsAndSuggestsNames(t *testing.T) {
	s := Envelope(Of(boxSpec{}))
	e, err := s.Explain("spec.wait")
	if err != nil || e.Type != "duration" || e.Default != "5s" || !strings.Contains(e.Rule, "1ms to 1h") {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err = s.Explain("spec.boxes[3].deep"); err != nil || e.Path != "spec.boxes.deep" || len(e.Fields) != 1 || e.Fields[0].Path != "spec.boxes.deep.word" {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err = s.Explain("spec.flag"); err != nil || e.Capability != "flags/v1" {
		t.Errorf("%+v, %v", e, err)
	}
	_, err = s.Explain("spec.wiat")
	if fault.CodeOf(err) != fault.CodeUnknownField || !strings.Contains(fault.RemedyOf(err), "wait") {
		t.Errorf("%v: %s", err, fault.RemedyOf(err))
	}
	if got := fmt.Sprint(s.Complete("spec.b")); got != "[spec.big spec.boxes]" {
		t.Error(got)
	}
	if got := fmt.Sprint(s.Complete("me"), s.Complete("nowhere.x")); got != "[metadata] []" {
		t.Error(got)
	}
}
