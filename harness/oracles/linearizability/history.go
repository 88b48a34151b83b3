package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strconv"

	"github.com/anishathalye/porcupine"
)

// request is what a client asked of one key.
type request struct {
	Operation string
	Key       string
	Value     string
}

// reply is what a client was told. Unknown: nobody knows whether the operation took place, now or at any later time.
type reply struct {
	Unknown bool
	Nil     bool
	Text    string
}

type record struct {
	Event     string  `json:"event"`
	Client    int     `json:"client"`
	Operation string  `json:"operation"`
	Key       string  `json:"key"`
	Value     *string `json:"value"`
	Result    any     `json:"result"`
	CallNs    int64   `json:"call_ns"`
	ReturnNs  *int64  `json:"return_ns"`
	Error     *string `json:"error"`
}

type history struct {
	byKey    map[string][]porcupine.Operation
	keys     []string // in order of first use
	total    int
	unknown  int
	discards int // reads without an answer: they say nothing
}

func readHistory(path string) (*history, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	result := &history{byKey: map[string][]porcupine.Operation{}}
	clientMax := 0
	var lost []*porcupine.Operation
	scanner := bufio.NewScanner(file)
	scanner.Buffer(make([]byte, 1<<20), 1<<26)
	for line := 1; scanner.Scan(); line++ {
		var entry record
		decoder := json.NewDecoder(bytes.NewReader(scanner.Bytes()))
		decoder.UseNumber() // counters must not pass through a float
		if err := decoder.Decode(&entry); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, line, err)
		}
		if entry.Event != "" {
			continue
		}
		operation, err := entry.operation()
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, line, err)
		}
		clientMax = max(clientMax, entry.Client)
		if operation.Output.(reply).Unknown {
			if entry.Operation == "GET" {
				result.discards++
				continue
			}
			result.unknown++
		}
		if _, seen := result.byKey[entry.Key]; !seen {
			result.keys = append(result.keys, entry.Key)
		}
		result.byKey[entry.Key] = append(result.byKey[entry.Key], operation)
		result.total++
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// An operation without an answer stays open for ever, so it gets a row of its own in the picture.
	for _, key := range result.keys {
		for index := range result.byKey[key] {
			if result.byKey[key][index].Output.(reply).Unknown {
				lost = append(lost, &result.byKey[key][index])
			}
		}
	}
	for index, operation := range lost {
		operation.ClientId = clientMax + 1 + index
	}
	return result, nil
}

func (entry *record) operation() (porcupine.Operation, error) {
	input := request{Operation: entry.Operation, Key: entry.Key}
	switch entry.Operation {
	case "SET", "APPEND":
		if entry.Value == nil {
			return porcupine.Operation{}, fmt.Errorf("%s without a value", entry.Operation)
		}
		input.Value = *entry.Value
	case "GET", "INCR", "DEL":
	default:
		return porcupine.Operation{}, fmt.Errorf("no model of the operation %q", entry.Operation)
	}
	output, end := reply{Unknown: true}, int64(math.MaxInt64)
	if entry.ReturnNs != nil && entry.Error == nil {
		end = *entry.ReturnNs
		if end < entry.CallNs {
			return porcupine.Operation{}, fmt.Errorf("returned at %d, before it was called at %d", end, entry.CallNs)
		}
		switch result := entry.Result.(type) {
		case nil:
			output = reply{Nil: true}
		case string:
			output = reply{Text: result}
		case json.Number:
			number, err := strconv.ParseInt(result.String(), 10, 64)
			if err != nil {
				return porcupine.Operation{}, err
			}
			output = reply{Text: strconv.FormatInt(number, 10)}
		default:
			return porcupine.Operation{}, fmt.Errorf("a result of type %T", result)
		}
	}
	return porcupine.Operation{
		ClientId: entry.Client, Input: input, Call: entry.CallNs, Output: output, Return: end,
	}, nil
}
