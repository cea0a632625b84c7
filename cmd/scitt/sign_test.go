package main

import (
	"reflect"
	"testing"
	"time"

	"github.com/scittd/scittd/statement"
)

func TestAClaimHasTheTypeThatItIsWrittenWith(t *testing.T) {
	var made statement.Template
	s := signing{claims: []string{"text=17", "build:=17", "below:=-3", "final:=true", "draft:=false", "url=a:=b", "empty="}}
	if err := s.complete(&made, time.Now()); err != nil {
		t.Fatal(err)
	}
	want := map[any]any{"text": "17", "build": int64(17), "below": int64(-3), "final": true, "draft": false, "url": "a:=b", "empty": ""}
	if !reflect.DeepEqual(made.Claims, want) {
		t.Errorf("claims %#v, want %#v", made.Claims, want)
	}
	for _, claim := range []string{"build", "=1", ":=1", "build:=", "build:=1.5", "build:=017", "build:=+1", "build:=9223372036854775808", "build:=TRUE", `build:="a"`} {
		if err := (signing{claims: []string{claim}}).complete(&made, time.Now()); err == nil {
			t.Errorf("--claim %s is taken", claim)
		}
	}
}

func TestAKidIsTextOrBytes(t *testing.T) {
	for text, want := range map[string]string{"release-2026": "release-2026", "hex:00ff": "\x00\xff", "hex:": "", "hex:0": "", "hex:zz": ""} {
		if kid, err := keyID(text); string(kid) != want || (err != nil) != (want == "") {
			t.Errorf("--kid %s is %q, %v; want %q", text, kid, err, want)
		}
	}
}
