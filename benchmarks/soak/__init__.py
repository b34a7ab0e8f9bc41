"""Thousands of requests of every kind to one server: does its memory stay flat?"""
