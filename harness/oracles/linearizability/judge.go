package main

import (
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

type judgement struct {
	Verdict    string      `json:"verdict"` // linearizable, violation, unknown
	Keys       int         `json:"keys"`
	Operations int         `json:"operations"`
	Unknown    int         `json:"unknown_outcomes"`
	Discarded  int         `json:"reads_without_answer"`
	Violations []violation `json:"violations"`
	Undecided  []string    `json:"undecided_keys"`
	Picture    string      `json:"picture,omitempty"`
}

type violation struct {
	Key        string `json:"key"`
	Operations int    `json:"operations"`
	Linearized int    `json:"linearized"` // how many of them the longest valid order holds
	// The earliest answer that no valid order explains.
	Unexplained string `json:"unexplained"`
	CallNs      int64  `json:"call_ns"`
	ReturnNs    int64  `json:"return_ns"`
}

func judge(history *history, timeLimit time.Duration, htmlPath string) (*judgement, error) {
	deadline := time.Now().Add(timeLimit)
	result := &judgement{
		Verdict: "linearizable", Keys: len(history.keys), Operations: history.total, Unknown: history.unknown,
		Discarded: history.discards, Violations: []violation{}, Undecided: []string{},
	}
	for _, key := range history.keys {
		operations := history.byKey[key]
		// A time limit of zero would mean none.
		remaining := max(time.Until(deadline), time.Millisecond)
		checked, information := porcupine.CheckOperationsVerbose(model, operations, remaining)
		switch checked {
		case porcupine.Unknown:
			result.Undecided = append(result.Undecided, key)
		case porcupine.Illegal:
			result.Violations = append(result.Violations, explain(key, operations, information))
			if htmlPath != "" && result.Picture == "" {
				if err := porcupine.VisualizePath(model, information, htmlPath); err != nil {
					return nil, err
				}
				result.Picture = htmlPath
			}
		}
	}
	if len(result.Violations) > 0 {
		result.Verdict = "violation"
	} else if len(result.Undecided) > 0 {
		result.Verdict = "unknown"
	}
	return result, nil
}

func explain(key string, operations []porcupine.Operation, information porcupine.LinearizationInfo) violation {
	var longest []porcupine.Operation
	for _, orders := range information.PartialLinearizationsOperations() {
		for _, order := range orders {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	type identity struct {
		client int
		call   int64
	}
	explained := map[identity]bool{}
	for _, operation := range longest {
		explained[identity{operation.ClientId, operation.Call}] = true
	}
	byReturn := append([]porcupine.Operation{}, operations...)
	sort.SliceStable(byReturn, func(i, j int) bool { return byReturn[i].Return < byReturn[j].Return })
	result := violation{Key: key, Operations: len(operations), Linearized: len(longest)}
	for _, operation := range byReturn {
		if !explained[identity{operation.ClientId, operation.Call}] {
			result.Unexplained = describe(operation.Input.(request), operation.Output.(reply))
			result.CallNs, result.ReturnNs = operation.Call, operation.Return
			break
		}
	}
	return result
}
