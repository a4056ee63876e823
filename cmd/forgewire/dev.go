package main

import "errors"

type devCommand struct{}

func (devCommand) Run() error { return errors.New("being written") }
