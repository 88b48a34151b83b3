// Command linearizability judges the history of a key-value client with porcupine and prints its judgement as JSON.
//
// Exit status: 0 whatever the judgement is, 2 when the history cannot be read.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	historyPath := flag.String("history", "", "history.jsonl of the key-value client")
	htmlPath := flag.String("html", "", "where porcupine's picture of the first violation goes (optional)")
	timeLimit := flag.Duration("time-limit", 30*time.Second, "give up (judgement unknown) after this time")
	flag.Parse()
	history, err := readHistory(*historyPath)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	judgement, err := judge(history, *timeLimit, *htmlPath)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if err := json.NewEncoder(os.Stdout).Encode(judgement); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
