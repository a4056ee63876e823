package main

import "errors"

type benchCommand struct{}

func (benchCommand) Run() error { return errors.New("nothing to measure yet") }
