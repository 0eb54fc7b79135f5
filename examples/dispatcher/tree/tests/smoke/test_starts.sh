#!/bin/sh
echo hello | tally
