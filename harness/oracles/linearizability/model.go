package main

import (
	"fmt"
	"strconv"

	"github.com/anishathalye/porcupine"
)

// value is what a key holds; the zero value is "no such key".
type value struct {
	Exists bool
	Text   string
}

// model is the sequential meaning of one key (Redis commands SET, GET, APPEND, INCR, DEL; no expiry). Keys are judged
// one by one, which is sound because linearizability is local (Herlihy and Wing, 1990, theorem 1).
var model = porcupine.Model{
	Init: func() any { return value{} },
	Step: func(state, input, output any) (bool, any) {
		before, asked, told := state.(value), input.(request), output.(reply)
		expected, after, possible := apply(before, asked)
		if !possible {
			// The server answers an error and changes nothing; a client that was told success was told wrong.
			return told.Unknown, before
		}
		return told.Unknown || told == expected, after
	},
	DescribeOperation: func(input, output any) string { return describe(input.(request), output.(reply)) },
	DescribeState: func(state any) string {
		if held := state.(value); held.Exists {
			return strconv.Quote(held.Text)
		}
		return "no value"
	},
}

func apply(before value, asked request) (expected reply, after value, possible bool) {
	switch asked.Operation {
	case "GET":
		return reply{Nil: !before.Exists, Text: before.Text}, before, true
	case "SET":
		return reply{Text: "OK"}, value{Exists: true, Text: asked.Value}, true
	case "APPEND":
		text := before.Text + asked.Value
		return reply{Text: strconv.Itoa(len(text))}, value{Exists: true, Text: text}, true
	case "DEL":
		if before.Exists {
			return reply{Text: "1"}, value{}, true
		}
		return reply{Text: "0"}, value{}, true
	case "INCR":
		var number int64
		if before.Exists {
			var err error
			if number, err = strconv.ParseInt(before.Text, 10, 64); err != nil {
				return reply{}, before, false
			}
		}
		text := strconv.FormatInt(number+1, 10)
		return reply{Text: text}, value{Exists: true, Text: text}, true
	}
	return reply{}, before, false
}

func describe(asked request, told reply) string {
	call := fmt.Sprintf("%s %s", asked.Operation, asked.Key)
	if asked.Value != "" {
		call += " " + asked.Value
	}
	switch {
	case told.Unknown:
		return call + " -> no answer"
	case told.Nil:
		return call + " -> nil"
	}
	return call + " -> " + told.Text
}
